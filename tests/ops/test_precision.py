"""Low precision, large logits, memory that was never written, and inputs that stay as they were."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from regard import masks
from regard.edits import ALiBi, Bias, Edit, Emphasis
from regard.ops import State, View, attend
from tests import oracle
from tests.ops.cases import ENGINES, SHAPES, Case, assert_equals, bound, case, seeded, tensors


def plain_torch(c: Case, bias: Tensor | None = None) -> Tensor:
    """What a careful person writes in the dtype of the inputs: products in it, softmax in float32, weights in it."""
    of = c.q.shape[1] // c.k.shape[1]
    k, v = c.k.repeat_interleave(of, 1), c.v.repeat_interleave(of, 1)
    scores = (c.q @ k.transpose(-1, -2)).float() * c.q.shape[-1] ** -0.5
    scores = scores if bias is None else scores + bias
    seen = torch.from_numpy(c.seen)
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).masked_fill(~seen, 0.0)
    return weights.to(c.q.dtype) @ v


def _worst(found: Tensor, expected) -> float:
    return float((found.double() - torch.from_numpy(expected)).abs().max())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", ["square", "few_queries", "one_query", "many_tiles"])
@pytest.mark.parametrize("mask", ["none", "causal", "window_and_sinks", "per_head"])
@pytest.mark.parametrize("engine", ENGINES)
def test_half_precision_errs_at_most_twice_as_much_as_plain_torch(engine, mask, shape, dtype):
    c = case(mask, shape, dtype)
    found = attend(c.q, c.k, c.v, where=c.where, engine=ENGINES[engine])
    assert found.dtype == dtype
    assert _worst(found, c.answer.out) <= 2 * _worst(plain_torch(c), c.answer.out)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_bias_by_distance_is_not_rounded_to_bfloat16(engine):
    # Only keys far away, where two neighbours' biases round to one number in bfloat16.
    i, j = torch.arange(270, 400)[:, None], torch.arange(400)
    c = replace(
        case("causal", "many_tiles", torch.bfloat16),
        where=masks.causal() & ~masks.window(100),
        seen=(i - j >= 100).numpy(),
    )
    edit = ALiBi([0.011, 0.13, 0.31, 0.9])
    bias = -edit.slopes[:, None, None] * (i - j).abs()
    expected = oracle.attention(c.q, c.k, c.v, c.seen, edits=[lambda scores: scores + bias.double().numpy()]).out
    found = attend(c.q, c.k, c.v, where=c.where, edits=[edit], engine=ENGINES[engine])
    assert _worst(found, expected) <= 2 * _worst(plain_torch(c, bias), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("mask", ["none", "causal", "window_and_sinks", "blocks", "nothing"])
@pytest.mark.parametrize("engine", ENGINES)
def test_large_logits_neither_overflow_nor_reach_hidden_keys(engine, mask, dtype):
    c = case(mask, "many_tiles", dtype)
    q, k = 1e4 * c.q, c.k
    answer = oracle.attention(q, k, c.v, c.seen)
    assert abs(oracle.products(q, k)).max() > 1e4
    found = attend(q, k, c.v, where=c.where, engine=ENGINES[engine])
    assert found.isfinite().all()
    # A score of 1e4 has an error of 1e-3 in float32, so its weight may have one too.
    assert_equals(found, answer.out, bound(q, k, c.v, dtype))


@pytest.mark.parametrize("mask", ["causal", "window_and_sinks", "blocks", "nothing"])
@pytest.mark.parametrize(
    ("engine", "state"),
    [(name, state) for name in ENGINES for state in (False, True) if not (name == "sdpa" and state)],
)
def test_large_logits_have_finite_gradients(engine, state, mask):
    c = case(mask, "many_tiles", torch.float32)
    leaves = [t.clone().requires_grad_() for t in (1e4 * c.q, c.k, c.v)]
    found = attend(*leaves, where=c.where, state=state, engine=ENGINES[engine])
    total = found.out.sum() + found.lse.nan_to_num(neginf=0.0).sum() if isinstance(found, State) else found.sum()
    total.backward()
    for leaf in leaves:
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


@pytest.fixture
def poisoned(monkeypatch):
    """Uninitialised memory holds NaN, so that whoever reads it is found out."""
    made = []

    def wrapped(original):
        def make(*args, **kwargs):
            found = original(*args, **kwargs)
            made.append(found)
            return found.fill_(torch.nan) if found.is_floating_point() else found

        return make

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"), (Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, wrapped(getattr(owner, name)))
    return made


@pytest.mark.parametrize("mask", ["none", "causal", "window_and_sinks", "per_head", "blocks", "nothing"])
@pytest.mark.parametrize("engine", ENGINES)
def test_memory_that_was_never_written_is_never_read(engine, mask, poisoned):
    assert torch.empty(3).isnan().all()
    assert torch.zeros(2).new_empty(3).isnan().all()
    c = case(mask, "many_tiles")
    atol = bound(c.q, c.k, c.v, torch.float64)
    assert_equals(attend(c.q, c.k, c.v, where=c.where, engine=ENGINES[engine]), c.answer.out, atol)
    leaves = [t.clone().requires_grad_() for t in (c.q, c.k, c.v)]
    attend(*leaves, where=c.where, engine=ENGINES[engine]).sum().backward()
    assert all(leaf.grad is not None and leaf.grad.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize("edits", [[], [ALiBi(heads=4)], [Bias(torch.zeros(130, 400, dtype=torch.float64))]])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_nan_that_is_seen_stays_visible(engine, edits):
    c = case("causal", "many_tiles")
    v = c.v.clone()
    v[0, 1, 300, 2] = torch.nan
    found = attend(c.q, c.k, v, where=c.where, edits=edits, engine=ENGINES[engine])
    assert found[0, 2:, 30:, 2].isnan().all()
    assert not found[0, :2].isnan().any()


class Same(Edit):
    """Gives back the very tensor it was given."""

    def at(self, scores, b, h, i, j):
        return scores


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("engine", ENGINES)
def test_inputs_are_untouched(engine, grad):
    s = SHAPES["many_tiles"]
    q, k, v = tensors(s)
    bias = torch.randn(s.N, s.M, generator=seeded(1), dtype=torch.float64)
    sinks, other = torch.zeros(s.H, dtype=torch.float64), q.roll(1, 2)
    places, table = torch.randperm(s.M, generator=seeded(2)) - 3, torch.rand(s.H, 40, 40, generator=seeded(3)) < 0.5
    held = [q, k, v, bias, sinks, other, places, table]
    before = [t.clone() for t in held]
    leaves = [t.detach().requires_grad_(grad) for t in (q, k, v)]
    edits = [Bias(bias), Emphasis([(0, 9)], 2.0)] + ([] if engine == "sdpa" or grad else [Same()])
    where = masks.causal() & masks.blocks(table, 16)
    settings: dict[str, Any] = (
        {} if engine == "sdpa" and grad else {"sinks": sinks, "views": [View(masks.sinks(9), other)]}
    )
    out = attend(*leaves, where=where, edits=edits, k_positions=places, engine=ENGINES[engine], state=False, **settings)
    if grad:
        out.sum().backward()
    for now, then in zip(held, before, strict=True):
        assert torch.equal(now, then)
