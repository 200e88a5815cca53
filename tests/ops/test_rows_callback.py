"""`rows=` hands out complete rows of weights, a block at a time, and takes edited ones back."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from regard import masks
from regard.edits import Sigmoid
from regard.errors import EngineRefused, ShapeError
from regard.ops import RowBlocks, Rows, attend, explain
from tests import oracle
from tests.ops.cases import SHAPES, assert_equals, bound, case, tensors

READERS = {"reference": "reference", "rows": "rows", "rows_7": RowBlocks(queries=7), "auto": "auto"}


def gathered(c, s, **settings) -> tuple[torch.Tensor, torch.Tensor, list[Rows]]:
    """The output, the blocks put together, and the blocks."""
    weights = torch.zeros(s.B, s.H, s.N, s.M, dtype=torch.float64)
    blocks: list[Rows] = []

    def read(rows: Rows) -> None:
        n, m = rows.weights.shape[2:]
        weights[:, :, rows.start : rows.start + n, rows.first : rows.first + m] = rows.weights
        blocks.append(rows)

    return attend(c.q, c.k, c.v, where=c.where, rows=read, **settings), weights, blocks


@pytest.mark.parametrize("shape", ["square", "few_queries", "one_query", "more_queries_than_keys", "many_tiles"])
@pytest.mark.parametrize("mask", ["none", "causal", "window_and_sinks", "future", "per_head", "blocks", "nothing"])
@pytest.mark.parametrize("engine", READERS)
def test_blocks_are_complete_rows_of_the_weights(engine, mask, shape):
    c, s = case(mask, shape), SHAPES[shape]
    out, weights, blocks = gathered(c, s, engine=READERS[engine])
    atol = bound(c.q, c.k, c.v, torch.float64)
    assert_equals(out, c.answer.out, atol)
    assert_equals(weights, c.answer.weights, atol)
    starts = [(rows.start, rows.start + rows.weights.shape[2]) for rows in blocks]
    assert [start for start, _ in starts] == [0, *(stop for _, stop in starts[:-1])]
    assert starts[-1][1] == s.N
    for rows in blocks:
        n, m = rows.weights.shape[2:]
        there = (slice(None), slice(None), slice(rows.start, rows.start + n), slice(rows.first, rows.first + m))
        seen = np.broadcast_to(c.seen, weights.shape)[there]
        assert np.array_equal(np.broadcast_to(rows.seen.numpy(), rows.weights.shape), seen)
        # Rows sum to one where they see anything, else to nothing.
        torch.testing.assert_close(rows.weights.sum(-1), torch.from_numpy(seen.any(-1)).double(), rtol=0, atol=1e-13)


@pytest.mark.parametrize("engine", READERS)
def test_an_entropy_from_blocks_equals_the_dense_one(engine):
    c, s = case("window_and_sinks", "many_tiles"), SHAPES["many_tiles"]
    found = torch.zeros(s.H, dtype=torch.float64)

    def read(rows: Rows) -> None:
        nonlocal found
        found = found - torch.xlogy(rows.weights, rows.weights).sum((0, 2, 3))

    attend(c.q, c.k, c.v, where=c.where, rows=read, engine=READERS[engine])
    held = np.where(c.answer.weights > 0, c.answer.weights, 1.0)
    expected = -(held * np.log(held)).sum((0, 2, 3))
    # 130 rows with sums of up to 23 terms below 1.
    torch.testing.assert_close(found, torch.from_numpy(expected), rtol=1e-12, atol=0)


@pytest.mark.parametrize("engine", READERS)
def test_edited_weights_are_the_ones_used(engine):
    c = case("window_and_sinks", "many_tiles")

    def edit(rows: Rows) -> torch.Tensor:
        weights = rows.weights.clone()
        weights[:, 1] = 0.0
        slots = torch.arange(rows.first, rows.first + weights.shape[3])
        weights[:, 2] *= (slots >= 3) * 2.0
        return weights

    expected = c.answer.weights.copy()
    expected[:, 1] = 0.0
    expected[:, 2] *= (np.arange(400) >= 3) * 2.0
    found = attend(c.q, c.k, c.v, where=c.where, rows=edit, engine=READERS[engine])
    values = c.v.repeat_interleave(2, 1).numpy()
    assert_equals(found, expected @ values, 2 * bound(c.q, c.k, c.v, torch.float64))


@pytest.mark.parametrize("engine", READERS)
def test_reading_changes_nothing_and_half_precision_gets_float32_weights(engine):
    c = case("causal", "square", torch.bfloat16)
    kinds = []
    with_reader = attend(
        c.q, c.k, c.v, where=c.where, rows=lambda r: kinds.append(r.weights.dtype), engine=READERS[engine]
    )
    without = attend(c.q, c.k, c.v, where=c.where, engine="rows" if engine == "auto" else READERS[engine])
    assert torch.equal(with_reader, without)
    assert set(kinds) == {torch.float32}


@pytest.mark.parametrize("engine", READERS)
def test_readers_see_sinks_and_sigmoid_weights(engine):
    c, s = case("causal", "many_tiles"), SHAPES["many_tiles"]
    logits = [0.5, 1.0, -1.0, 2.0]
    _, weights, _ = gathered(c, s, engine=READERS[engine], sinks=torch.tensor(logits).double())
    expected = oracle.attention(c.q, c.k, c.v, c.seen, normal=oracle.softmax(logits)).weights
    assert_equals(weights, expected, bound(c.q, c.k, c.v, torch.float64))
    _, weights, _ = gathered(c, s, engine=READERS[engine], normaliser=Sigmoid(-1.0))
    expected = oracle.attention(c.q, c.k, c.v, c.seen, normal=oracle.sigmoid(-1.0)).weights
    assert_equals(weights, expected, bound(c.q, c.k, c.v, torch.float64))


@pytest.mark.parametrize("engine", READERS)
def test_the_gradient_passes_through_edited_weights(engine):
    c = case("causal", "square")
    leaves = [t.clone().requires_grad_() for t in (c.q, c.k, c.v)]
    heads = torch.tensor([1.0, 0.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True)
    out = attend(*leaves, where=c.where, rows=lambda r: r.weights * heads[:, None, None], engine=READERS[engine])
    again = [t.clone().requires_grad_() for t in (c.q, c.k, c.v)]
    scale = heads.detach().clone().requires_grad_()
    plain = attend(*again, where=c.where, engine="reference") * scale[:, None, None]
    found = torch.autograd.grad((out * c.q).sum(), [*leaves, heads])
    for one, want in zip(found, torch.autograd.grad((plain * c.q).sum(), [*again, scale]), strict=True):
        assert_equals(one, want.numpy(), 1e-12 * max(1.0, float(want.abs().max())))


@pytest.mark.parametrize(
    "engine", ["tiles", "sdpa", "flex", RowBlocks(8, 8)], ids=["tiles", "sdpa", "flex", "rows_8x8"]
)
def test_engines_without_complete_rows_refuse(engine):
    q, k, v = tensors(SHAPES["square"])
    with pytest.raises(EngineRefused, match=r"something reads or edits the attention weights|complete rows are needed"):
        attend(q, k, v, rows=lambda rows: None, engine=engine)
    assert explain(q, k, v, where=masks.causal(), rows=lambda rows: None).engine == "rows"


@pytest.mark.parametrize("engine", ["reference", "rows"])
def test_edited_weights_of_another_shape_are_named(engine):
    q, k, v = tensors(SHAPES["square"])
    with pytest.raises(ShapeError, match=r"rows must return weights \[2, 4, 70, 70\] or None; got \[2, 4, 70, 1\]"):
        attend(q, k, v, rows=lambda rows: rows.weights[..., :1], engine=engine)
