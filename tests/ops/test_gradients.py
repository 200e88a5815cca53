"""Gradients against central differences of the oracle, and of every engine against the reference's on larger problems."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from regard import masks
from regard.edits import ALiBi, Bias, Edit, Softcap, Temperature
from regard.errors import EngineRefused
from regard.masks import Mask
from regard.ops import RowBlocks, State, attend, merge
from tests import oracle
from tests.ops.cases import ENGINES, MASKS, SHAPES, Shape, assert_equals, case, seeded, tensors

SMALL = Shape(2, 4, 2, 5, 7, 3, 3)
LSE_ENGINES = [name for name in ENGINES if name != "sdpa"]
# Central differences with a step of 1e-5 err by about 1e-10 times third derivatives, here below 100.
DIFFERENCES = 1e-8
SMALL_MASKS = {
    "none": (None, lambda b, h, i, j: (i == i) & (j == j)),
    "causal": (masks.causal(), lambda b, h, i, j: j <= i),
    "empty_rows": (masks.predicate(lambda b, h, i, j: (j < i) & (i != 4) & (h < 3)), None),
}


def _leaves(s: Shape, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [t.requires_grad_() for t in tensors(s, dtype)]


def _total(result: Tensor | State, seed: int = 1) -> Tensor:
    """A number that weighs every output, and every log-sum-exp that is not -inf, differently."""
    out = result.out if isinstance(result, State) else result
    total = (out * torch.randn(out.shape, generator=seeded(seed), dtype=torch.float64)).sum()
    if isinstance(result, State):
        weights = torch.randn(result.lse.shape, generator=seeded(seed + 1), dtype=torch.float64)
        total = total + (torch.where(result.lse == -torch.inf, 0.0, result.lse) * weights).sum()
    return total


def _oracle_total(answer: oracle.Answer, state: bool, seed: int = 1) -> float:
    total = (answer.out * torch.randn(answer.out.shape, generator=seeded(seed), dtype=torch.float64).numpy()).sum()
    if state:
        weights = torch.randn(answer.lse.shape, generator=seeded(seed + 1), dtype=torch.float64).numpy()
        total = total + (np.where(np.isinf(answer.lse), 0.0, answer.lse) * weights).sum()
    return float(total)


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("mask", SMALL_MASKS)
@pytest.mark.parametrize("engine", [*ENGINES, "rows_2x3"])
def test_gradients_equal_differences_of_the_oracle(engine, mask, state):
    leaves = _leaves(SMALL)
    where, formula = SMALL_MASKS[mask]
    formula = formula or (lambda b, h, i, j: (j < i) & (i != 4) & (h < 3))
    i = oracle.places(None, SMALL.N, SMALL.M - SMALL.N, SMALL.B, SMALL.H)
    seen = oracle.visible(formula, i, oracle.places(None, SMALL.M, 0, SMALL.B, SMALL.H))

    def run() -> Tensor | State:
        chosen = RowBlocks(queries=2, keys=3) if engine == "rows_2x3" else ENGINES[engine]
        return attend(*leaves, where=where, state=state, engine=chosen)

    if engine == "sdpa" and state:
        with pytest.raises(EngineRefused, match="the log-sum-exp carries no gradient"):
            run()
        return
    _total(run()).backward()
    expected = oracle.slope(lambda x: _oracle_total(oracle.attention(x[0], x[1], x[2], seen), state), leaves)
    for leaf, gradient in zip(leaves, expected, strict=True):
        assert leaf.grad is not None
        assert_equals(leaf.grad, gradient, DIFFERENCES)


def _grads(s: Shape, engine: object, state: bool, **more: object) -> list[Tensor]:
    leaves = _leaves(s)
    _total(attend(*leaves, state=state, engine=engine, **more)).backward()
    return [leaf.grad for leaf in leaves if leaf.grad is not None]


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("shape", ["square", "few_queries", "wide_values", "more_queries_than_keys", "many_tiles"])
@pytest.mark.parametrize("mask", MASKS)
def test_gradients_of_all_engines_are_the_references(mask, shape, state):
    where = case(mask, shape).where
    expected = _grads(SHAPES[shape], "reference", state, where=where)
    assert len(expected) == 3
    largest = max(1.0, *(float(t.abs().max()) for t in expected))
    for engine in ENGINES:
        if engine == "sdpa" and state:
            continue
        for found, want in zip(_grads(SHAPES[shape], ENGINES[engine], state, where=where), expected, strict=True):
            # Sums of a few hundred terms, each with a few dozen roundings of 1.1e-16.
            assert_equals(found, want.numpy(), 1e-12 * largest)


@pytest.mark.parametrize("given", ["positions", "sinks", "views", "alibi"])
@pytest.mark.parametrize("engine", [name for name in ENGINES if name != "sdpa"])
def test_gradients_with_everything_else_are_the_references(engine, given):
    from regard.ops import View

    s = SHAPES["many_tiles"]
    where: Mask = masks.causal() & (masks.window(60) | masks.sinks(3))
    more = {
        "positions": {"k_positions": torch.randperm(s.M, generator=seeded(3)) - 20},
        "sinks": {"sinks": torch.randn(s.H, generator=seeded(4), dtype=torch.float64)},
        "views": {"views": [View(masks.sinks(3), torch.randn(1, s.H, s.N, s.D, generator=seeded(5)).double())]},
        "alibi": {"edits": [ALiBi(heads=s.H)]},
    }[given]
    found = _grads(s, ENGINES[engine], False, where=where, **more)
    for one, want in zip(found, _grads(s, "reference", False, where=where, **more), strict=True):
        assert_equals(one, want.numpy(), 1e-12 * max(1.0, float(want.abs().max())))


class RelativeBias(Edit):
    """A table of one number per distance and head, as T5 has it; additive."""

    additive = True

    def __init__(self, table: Tensor) -> None:
        self.table = table

    def bias(self, b, h, i, j, *, dtype=torch.float32):
        return self.table[h, (i - j).clamp(0, self.table.shape[1] - 1)]


@pytest.mark.parametrize("engine", ["reference", "rows", "rows_7", "rows_16x30", "auto"])
def test_captured_tensors_get_the_gradient_of_the_dense_formula(engine):
    c, s = case("causal", "square"), SHAPES["square"]
    table = torch.randn(s.H, 9, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    values = torch.randn(s.H, 1, s.M, generator=seeded(2), dtype=torch.float64, requires_grad=True)
    heat = torch.tensor([0.5, 1.0, 1.5, 2.0], dtype=torch.float64, requires_grad=True)
    edits = [RelativeBias(table), Temperature(heat), Bias(values)]
    _total(attend(c.q, c.k, c.v, where=c.where, edits=edits, engine=ENGINES.get(engine, engine))).backward()

    i, j = torch.arange(s.N)[:, None], torch.arange(s.M)
    again = [t.detach().clone().requires_grad_() for t in (table, values, heat)]
    scores = c.q @ c.k.repeat_interleave(2, 1).transpose(-1, -2) * s.D**-0.5
    scores = (scores + again[0][:, (i - j).clamp(0, 8)]) / again[2][:, None, None] + again[1]
    dense = scores.masked_fill(j > i, -torch.inf).softmax(-1) @ c.v.repeat_interleave(2, 1)
    _total(dense).backward()
    for found, want in zip((table, values, heat), again, strict=True):
        assert found.grad is not None
        assert want.grad is not None
        assert want.grad.abs().max() > 0.1
        assert_equals(found.grad, want.grad.numpy(), 1e-12 * max(1.0, float(want.grad.abs().max())))


@pytest.mark.parametrize("engine", ["tiles", "sdpa"])
def test_engines_without_a_gradient_for_an_edit_refuse_it(engine):
    leaves = _leaves(SMALL)
    bias = Bias(torch.zeros(SMALL.N, SMALL.M, dtype=torch.float64, requires_grad=True))
    with pytest.raises(EngineRefused, match=r"an edit( or the normaliser)? needs a gradient"):
        attend(*leaves, edits=[bias], engine=engine)
    with torch.no_grad():
        attend(*leaves, edits=[bias], engine=engine)
    with pytest.raises(EngineRefused, match="not additive"):
        attend(*leaves, edits=[Softcap(1.0)], engine=engine)


@pytest.mark.parametrize("engine", LSE_ENGINES)
def test_gradients_through_merge_are_finite_where_both_sides_are_empty(engine):
    leaves = _leaves(SMALL)
    nobody = torch.full((SMALL.M,), -1)
    parts = [
        attend(*leaves, where=~masks.everything, state=True, engine=ENGINES[engine]),
        attend(*leaves, where=masks.window(2), k_positions=nobody, state=True, engine=ENGINES[engine]),
        attend(
            *leaves, where=masks.predicate(lambda b, h, i, j: (i > 4) & (j == j)), state=True, engine=ENGINES[engine]
        ),
    ]
    whole = merge(merge(parts[0], parts[1]), parts[2])
    expected = attend(*leaves, where=masks.predicate(lambda b, h, i, j: (i > 4) & (j == j)), state=True)
    wanted = torch.autograd.grad(_total(expected), leaves)
    for found, want in zip(torch.autograd.grad(_total(whole), leaves), wanted, strict=True):
        assert_equals(found, want.numpy(), 1e-14 * max(1.0, float(want.abs().max())))


@pytest.mark.parametrize("engine", LSE_ENGINES)
def test_gradients_are_finite_where_a_bias_hides_whole_rows(engine):
    leaves = _leaves(SHAPES["many_tiles"])
    bias = torch.zeros(130, 400, dtype=torch.float64)
    bias[[0, 80]] = -torch.inf
    state = attend(*leaves, where=masks.causal(), edits=[Bias(bias)], state=True, engine=ENGINES[engine])
    found = torch.autograd.grad(_total(state), leaves)
    hidden = (torch.arange(130) == 0) | (torch.arange(130) == 80)
    dense = masks.causal().dense(130, 400)[0, 0] & ~hidden[:, None]
    scores = leaves[0] @ leaves[1].repeat_interleave(2, 1).transpose(-1, -2) / 2
    scores = scores.masked_fill(~dense, -torch.inf).masked_fill(hidden[:, None], 0.0)
    lse = scores.logsumexp(-1).masked_fill(hidden, -torch.inf)
    out = scores.softmax(-1).masked_fill(hidden[:, None], 0.0) @ leaves[2].repeat_interleave(2, 1)
    for one, want in zip(found, torch.autograd.grad(_total(State(out, lse)), leaves), strict=True):
        assert_equals(one, want.numpy(), 1e-12 * float(want.abs().max()))


@pytest.mark.parametrize("engine", LSE_ENGINES)
def test_rows_that_see_nothing_do_not_pass_on_a_nan_from_above(engine):
    leaves = _leaves(SHAPES["many_tiles"])
    empty = masks.predicate(lambda b, h, i, j: (i % 7 > 0) & (j <= i))
    state = attend(*leaves, where=empty, state=True, engine=ENGINES[engine])
    # Where both sides are -inf, torch's own gradient of logaddexp is NaN.
    total = state.out.sum() + torch.where(state.lse == -torch.inf, 0.0, torch.logaddexp(state.lse, state.lse)).sum()
    for gradient in torch.autograd.grad(total, leaves):
        assert gradient.isfinite().all()
        assert gradient.abs().max() > 0
