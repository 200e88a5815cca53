"""Think-at-Hard as a whole model: who passes again, what that changes, and decoding."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from regard.backbones.looped import LoopedLM, LoopState, hard
from regard.errors import ShapeError
from regard.mechanisms.depth.think_at_hard import LowRank

V, C, H, B, N = 13, 16, 2, 3, 8


def model(**settings: Any) -> LoopedLM:
    torch.manual_seed(0)
    made = LoopedLM(V, C, H, **{"layers": 2, "threshold": 0.5, "rank": 4, **settings}).double().eval()
    for part in made.modules():
        if isinstance(part, LowRank):
            torch.nn.init.normal_(part.up.weight, std=0.3)
    return made


def ids(seed: int = 1, size: int = B) -> torch.Tensor:
    return torch.randint(V, (size, N), generator=torch.Generator().manual_seed(seed))


SOME = torch.tensor([[1, 2, 1, 2, 2, 1, 1, 2], [2, 2, 1, 1, 2, 1, 2, 1], [1] * 8])


def test_iterating_changes_the_tokens_that_do_and_no_first_pass() -> None:
    made, x = model(), ids()
    thought, once = made.think(x, labels=SOME), made.think(x, labels=torch.ones_like(SOME))
    assert torch.equal(thought.first, once.logits)
    assert torch.equal(thought.logits[SOME == 1], once.logits[SOME == 1])
    assert ((thought.logits - once.logits)[SOME == 2].abs().amax(-1) > 1e-6).all()
    assert thought.passes == int(SOME.sum())
    assert torch.equal(thought.iterations, SOME)


def test_logits_of_all_passes_are_added(monkeypatch: pytest.MonkeyPatch) -> None:
    made, given = model(iterations=3), []
    once = made._iterate
    monkeypatch.setattr(made, "_iterate", lambda *inputs: given.append(once(*inputs)) or given[-1])
    thought = made.think(ids(), labels=torch.full((B, N), 3))
    torch.testing.assert_close(thought.logits, sum(logits for logits, *_ in given))
    assert len(given) == 3


def test_no_decision_or_token_ahead_moves_what_came_before() -> None:
    made, x = model(), ids()
    want = made.think(x, labels=SOME).logits
    labels, later = SOME.clone(), x.clone()
    labels[:, 5:] = 3 - labels[:, 5:]
    later[:, 5:] = (later[:, 5:] + 1) % V
    torch.testing.assert_close(made.think(later, labels=labels).logits[:, :5], want[:, :5])


def test_a_second_pass_sees_earlier_second_passes() -> None:
    made, x = model(), ids()
    fewer = SOME.clone()
    fewer[0, 1] = 1
    moved = (made.think(x, labels=fewer).logits - made.think(x, labels=SOME).logits)[0].abs().amax(-1) > 1e-9
    assert moved.tolist() == [at == 1 or (at > 1 and SOME[0, at] == 2) for at in range(N)]


@pytest.mark.parametrize("iterations", [2, 3])
@pytest.mark.parametrize("decides", [True, False])
def test_decoding_alone_and_padded_agree_with_the_whole(iterations: int, decides: bool) -> None:
    made, x = model(iterations=iterations), ids()
    labels = None if decides else SOME + (SOME == 2) * (iterations - 2)
    whole = made.think(x, labels=labels)
    assert 0 < (whole.iterations > 1).double().mean() < 1
    for sizes in ([1] * N, [3, 1, 4]):
        state, outs, at = made.init_state(B), [], 0
        for size in sizes:
            part = slice(at, at + size)
            out, state = made.step(state, x[:, part], labels=None if labels is None else labels[:, part])
            outs.append(out.logits)
            at += size
        torch.testing.assert_close(torch.cat(outs, 1), whole.logits)
    alone = made.think(x[:1], labels=None if labels is None else labels[:1])
    torch.testing.assert_close(alone.logits, whole.logits[:1])
    real = torch.ones(B, N + 3, dtype=torch.bool)
    real[:, :2] = real[:, -1:] = False
    padded = torch.nn.functional.pad(x, (2, 1), value=5)
    wide = None if labels is None else torch.nn.functional.pad(labels, (2, 1), value=2)
    thought = made.think(padded, real, labels=wide)
    torch.testing.assert_close(thought.logits[:, 2:-1], whole.logits)
    assert thought.passes == whole.passes


def test_a_threshold_of_one_or_one_iteration_is_the_base_model() -> None:
    made, plain = model(threshold=1.0), model(iterations=1)
    plain.load_state_dict({name: value for name, value in made.state_dict().items() if name in plain.state_dict()})
    torch.testing.assert_close(made(ids()), plain(ids()))
    assert model(threshold=0.0).think(ids()).iterations.unique().tolist() == [2]


def test_a_sure_prediction_is_read_as_its_embedding() -> None:
    made = model(best=5)
    logits = torch.zeros(1, 2, V, dtype=torch.float64)
    logits[0, 0, 3] = logits[0, 1, 7] = 1e3
    torch.testing.assert_close(made.soft(logits)[0], made.embedding.weight[[3, 7]])


def test_decisions_are_learned_from_labels_alone() -> None:
    made, x = model(), ids()
    thought = made.think(x, labels=SOME)
    loss = made.decision_loss(thought, SOME, weight=5.0)
    (decision,) = thought.decisions
    p = torch.sigmoid(decision)
    want = torch.where(SOME == 2, -5 * p.log(), -(1 - p).log()).mean()
    torch.testing.assert_close(loss, want)
    weight = made.decider.last.weight
    assert torch.autograd.grad(loss, weight, retain_graph=True)[0].abs().max() > 0
    assert torch.autograd.grad(thought.logits.sum(), weight, allow_unused=True)[0] is None


def test_labels_are_the_wrong_guesses_of_a_reference() -> None:
    logits = torch.eye(3)[None]
    assert hard(logits, torch.tensor([[0, 2, 2]])).tolist() == [[1, 2, 1]]


def test_what_does_not_fit_is_refused() -> None:
    for settings, text in (
        ({"iterations": 0}, "iterations must be at least 1; got 0"),
        ({"threshold": 2.0}, r"threshold must be in 0\.\.1; got 2\.0"),
        ({"reads": (0, 2)}, r"reads must name layers 0\.\.1; got \(0, 2\)"),
        ({"layers": 0}, "vocabulary, layers, best >= 1; got 13, 0"),
    ):
        with pytest.raises(ValueError, match=text):
            model(**settings)
    made, x = model(), ids()
    with pytest.raises(ValueError, match="labels must be at most iterations=2; got 3"):
        made.think(x, labels=torch.full_like(x, 3))
    with pytest.raises(ShapeError, match=r"labels must be \[3, 8\] as the ids; got \[3, 1\]"):
        made.think(x, labels=x[:, :1])
    with pytest.raises(ValueError, match="has 2 layers, and this state is of 1"):
        made.step(LoopState(made.init_state(B).seen, made.init_state(B).slots[:1]), x)
    with pytest.raises(ShapeError, match=r"ids as whole numbers \[B, N\]; got torch.float64"):
        made.think(torch.zeros(2, 3, dtype=torch.float64))
