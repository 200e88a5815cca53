"""Think at hard: who goes on, what a second pass sees, and what it never changes."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.mechanisms import Call
from regard.mechanisms.depth import ThinkAtHard
from regard.mechanisms.depth.think_at_hard import LowRank, Slots
from regard.testing import subjects
from regard.testing.oracles import find

(PLAIN, *_) = subjects("think_at_hard")
C, H, N = 16, 2, 7


def layer(**settings) -> ThinkAtHard:
    torch.manual_seed(0)
    made = ThinkAtHard(C, H, **settings).double().eval()
    for part in made.modules():
        if isinstance(part, LowRank):
            torch.nn.init.normal_(part.up.weight, std=0.3)
    return made


def twice(made: ThinkAtHard, first: torch.Tensor, second: torch.Tensor, goes: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Both iterations of given tokens, with the second for those that go on."""
    at = torch.arange(N)[None]
    slots: Slots = made.init_state(1).inner
    call = Call(tokens=first, memory=first, causal=True)
    zero, slots = made.iterate(0, first, at, slots, call)
    one, _ = made.iterate(1, second, torch.where(goes, at, -1), slots, call)
    return zero, one


@pytest.mark.parametrize("iterations", [1, 2, 3])
@pytest.mark.parametrize("threshold", [0.0, 0.5])
def test_stirred_parameters_equal_the_oracle(iterations: int, threshold: float) -> None:
    made = PLAIN.layer(settings={"iterations": iterations, "threshold": threshold})
    x = PLAIN.tokens(length=8)
    want = find("think_at_hard")(made, x, None, True) if iterations > 1 else find("softmax")(made, x, None, True)
    torch.testing.assert_close(made(x, causal=True), want)


def test_some_tokens_go_on_and_some_do_not() -> None:
    made, x = PLAIN.layer(), PLAIN.tokens(length=64)
    _, state = made.prefill(x)
    share = (state.inner[1].positions >= 0).double().mean()
    assert 0.05 < share < 0.95
    assert (state.inner[1].positions.amax(1) < 64).all()


def test_the_first_iteration_knows_nothing_of_the_second() -> None:
    made = layer()
    first, second = torch.randn(1, N, C).double(), torch.randn(1, N, C).double()
    some = torch.tensor([[True, False, True, True, False, True, False]])
    a, _ = twice(made, first, second, some)
    b, _ = twice(made, first, 5 * second, ~some)
    assert torch.equal(a, b)


def test_the_second_iteration_sees_earlier_seconds_and_no_later_ones() -> None:
    made = layer()
    first, second = torch.randn(1, N, C).double(), torch.randn(1, N, C).double()
    goes = torch.tensor([[True, False, True, True, False, True, False]])
    _, out = twice(made, first, second, goes)
    assert out[~goes].abs().max() == 0
    fewer = goes.clone()
    fewer[0, 5] = False  # a later decision
    _, less = twice(made, first, second, fewer)
    torch.testing.assert_close(less[:, :4], out[:, :4], rtol=0, atol=0)
    later = second.clone()
    later[:, 3] += 1  # a later second pass
    _, moved = twice(made, first, later, goes)
    torch.testing.assert_close(moved[:, :3], out[:, :3], rtol=0, atol=0)
    assert (moved[:, 5] - out[:, 5]).abs().max() > 1e-6  # which the one after it does see
    silent = second.clone()
    silent[:, 4] += 1  # of a token that has no second pass
    torch.testing.assert_close(twice(made, first, silent, goes)[1], out, rtol=0, atol=0)


def test_a_second_pass_over_the_same_tokens_without_adapters_doubles_every_key() -> None:
    made, x = ThinkAtHard(C, H).double(), torch.randn(1, N, C).double()
    zero, one = twice(made, x, x, torch.ones(1, N, dtype=torch.bool))
    torch.testing.assert_close(one, zero)


def test_the_choice_gets_a_gradient_in_training_alone() -> None:
    made, x = layer(threshold=0.0), torch.randn(2, N, C).double()
    weight = made.decider.last.weight
    assert torch.autograd.grad(made(x, causal=True).sum(), weight, allow_unused=True)[0] is None
    made.train()
    out = made(x, causal=True)
    torch.testing.assert_close(out, made.eval()(x, causal=True))
    assert torch.autograd.grad(out.sum(), weight)[0].abs().max() > 0


def test_without_a_decider_there_is_one_iteration() -> None:
    made, plain = layer(threshold=None), layer(iterations=1)
    plain.load_state_dict(made.state_dict(), strict=False)
    x = torch.randn(2, N, C).double()
    torch.testing.assert_close(made(x, causal=True), plain(x, causal=True))
    assert not any("decider" in name for name, _ in made.named_parameters())
    assert sum(p.numel() for p in plain.parameters()) == 4 * C * C
    assert sum(p.numel() for p in made.parameters()) == 4 * C * C + 4 * 2 * 8 * C


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"iterations": 0}, r"ThinkAtHard\.iterations must be at least 1; got 0"),
        ({"rank": 0}, r"ThinkAtHard\.rank must be at least 1; got 0"),
        ({"threshold": 1.5}, r"ThinkAtHard\.threshold must be in 0\.\.1, or None for no decider; got 1\.5"),
        ({"rope": True}, "turns pairs of features, so heads need an even width; got 3"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        regard.create("think_at_hard", dim=12, heads=4, **settings)
