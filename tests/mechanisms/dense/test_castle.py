"""CASTLE beyond its spec: its blocks, its window, its rotation, and that early keys do change."""

import math

import pytest
import torch
from torch import Tensor

import regard
from regard.errors import ShapeError
from regard.mechanisms import Layer, LayerState
from regard.testing import subjects

SUBJECT = subjects("castle")[0]
MAPS = ("q", "k", "v", "lookahead_q", "lookahead_k", "lookahead_v")


def stirred(**settings: object) -> Layer:
    return SUBJECT.layer(settings=settings)


def loops(layer: Layer, x: Tensor, *, window: int | None, rope: bool) -> Tensor:
    """The formula token by token, with a window and with rotated queries and keys."""
    N, outs = x.shape[1], []
    for h in range(4):
        q, k, v, asks, answers, brings = (
            (x[0] @ layer.get_submodule(name).weight.T)[:, 8 * h : 8 * h + 8] for name in MAPS
        )
        plain = q
        if rope:
            q, k, asks, answers = (rotated(one) for one in (q, k, asks, answers))
        rows = []
        for t in range(N):
            scores = []
            for s in range(t + 1):
                last = t if window is None else min(t, s + window)
                key = sum(
                    (torch.sigmoid(asks[s] @ answers[j] / math.sqrt(8)) * brings[j] for j in range(s + 1, last + 1)),
                    torch.zeros(8).double(),
                )
                ahead = plain[t] @ key / math.sqrt(8)
                scores.append(q[t] @ k[s] / math.sqrt(8) - ahead * torch.sigmoid(ahead))
            rows.append(torch.stack(scores).softmax(0) @ v[: t + 1])
        outs.append(torch.stack(rows))
    return (torch.cat(outs, -1) @ layer.get_submodule("out").weight.T)[None]


def rotated(x: Tensor) -> Tensor:
    pairs = torch.complex(x[:, :4], x[:, 4:])
    turns = torch.polar(
        torch.ones(4).double(), torch.tensor([10000.0 ** (-i / 4) for i in range(4)], dtype=torch.float64)
    )
    pairs = torch.stack([pair * turns**n for n, pair in enumerate(pairs)])
    return torch.cat([pairs.real, pairs.imag], -1)


@pytest.mark.parametrize("window", [None, 0, 1, 3])
@pytest.mark.parametrize("rope", [False, True])
def test_it_equals_plain_loops_with_their_gradients(window: int | None, rope: bool):
    layer, x = stirred(window=window, rope=rope, block=4), SUBJECT.tokens(batch=1, length=9)
    with torch.no_grad():
        layer.get_parameter("lookahead_v.weight").mul_(3)
    got, want = layer(x, causal=True), loops(layer, x, window=window, rope=rope)
    torch.testing.assert_close(got, want)
    weights = [layer.get_parameter(f"{name}.weight") for name in MAPS]
    slopes = [torch.autograd.grad((out * got.detach()).sum(), weights, allow_unused=True) for out in (got, want)]
    for name, ours, theirs in zip(MAPS, *slopes, strict=True):
        theirs = torch.zeros_like(ours) if theirs is None else theirs
        torch.testing.assert_close(ours, theirs, msg=lambda said, name=name: f"{name}: {said}")


@pytest.mark.parametrize("block", [1, 5, 12])
def test_blocks_of_any_size_give_the_same_of_ragged_rows_too(block: int):
    x, real = SUBJECT.tokens(), torch.ones(2, 12, dtype=torch.bool)
    real[0, :4] = real[1, 9:] = False
    for window in (None, 2):
        got = stirred(block=block, window=window)(x, causal=True, padding=real)
        torch.testing.assert_close(got[real], stirred(window=window)(x, causal=True, padding=real)[real])


def test_a_window_as_long_as_the_sequence_is_none():
    x = SUBJECT.tokens()
    torch.testing.assert_close(stirred(window=11)(x, causal=True), stirred()(x, causal=True))
    assert not torch.allclose(stirred(window=5)(x, causal=True), stirred()(x, causal=True))


def test_the_key_of_an_early_token_changes_when_a_later_one_comes():
    layer, x = stirred(), SUBJECT.tokens()
    _, state = layer.prefill(x[:, :5])
    _, after = layer.step(state, x[:, 5:6])
    before, now = state.inner.renewed, after.inner.renewed
    assert (now[:, :, :5] - before).norm(dim=-1).min() > 1e-3
    assert not now[:, :, 5].any()
    assert torch.equal(after.inner.keys[:, :, :5], state.inner.keys)


def test_one_token_reads_its_own_value():
    layer, x = stirred(), SUBJECT.tokens(length=1)
    torch.testing.assert_close(layer(x, causal=True), layer.get_submodule("out")(layer.get_submodule("v")(x)))


def test_narrower_heads_have_as_many_parameters_as_plain_attention():
    layer = regard.create("castle", dim=28, heads=4, head_dim=4)
    plain = regard.create("softmax", dim=28, heads=4)
    assert sum(p.numel() for p in layer.parameters()) == sum(p.numel() for p in plain.parameters()) == 4 * 28 * 28


def test_lookahead_keys_add_up_in_float32_at_least():
    layer = regard.create("castle", dim=8, heads=2).bfloat16()
    _, state = layer.prefill(torch.randn(1, 4, 8, dtype=torch.bfloat16))
    assert (state.inner.renewed.dtype, state.inner.keys.dtype) == (torch.float32, torch.bfloat16)


def test_what_does_not_fit_is_refused():
    for setting, least in (("window", -1), ("block", 0), ("head_dim", 0), ("heads", 0)):
        sizes = {"dim": 8, "heads": 2, setting: least}
        with pytest.raises(
            ValueError, match=rf"(CASTLE\.{setting} must be at least \d; got {least}|needs.*heads={least})"
        ):
            regard.create("castle", **sizes)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match=r"rope=True turns pairs and head_dim=3 is odd"):
        regard.create("castle", dim=6, heads=2, rope=True)
    other = regard.create("softmax", dim=8, heads=2)
    x = torch.randn(1, 2, 8)
    wrong: LayerState = other.prefill(x)[1]
    with pytest.raises(TypeError, match="CASTLE goes on from its own state; got State"):
        regard.create("castle", dim=8, heads=2).step(wrong, x)
