"""Tile plans of random expressions against their formulas on every pair."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regard.masks import EMPTY, FULL, PARTIAL, Mask, neighbourhood
from tests.masks.formulas import B, H, dense, expressions, leaves, positions


def tiled_status(seen: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """EMPTY, PARTIAL or FULL of every tile, by looking at it."""
    _, _, N, M = seen.shape
    rows, cols = range(0, N, size[0]), range(0, M, size[1])
    status = np.empty((*seen.shape[:2], len(rows), len(cols)), dtype=np.int8)
    for r, i in enumerate(rows):
        for c, j in enumerate(cols):
            tile = seen[:, :, i : i + size[0], j : j + size[1]]
            some, every = tile.any((2, 3)), tile.all((2, 3))
            status[:, :, r, c] = np.where(every, FULL, np.where(some, PARTIAL, EMPTY))
    return status


def assert_plan(mask: Mask, seen: np.ndarray, N: int, M: int, size, q=None, k=None) -> None:
    where = {"batch": B, "heads": H, "q_positions": q, "k_positions": k}
    found = mask.dense(N, M, **where)
    assert found.dtype == torch.bool
    assert np.array_equal(np.broadcast_to(found.numpy(), seen.shape), seen)
    plan = mask.tiles(N, M, size, **where)
    status = np.broadcast_to(plan.status.numpy(), (B, H, *plan.status.shape[2:]))
    assert np.array_equal(status, tiled_status(seen, plan.size)), mask
    ids = plan.pattern_ids
    assert ids.dtype == torch.int32
    assert torch.equal(ids >= 0, plan.status == PARTIAL)
    padded = np.zeros((B, H, status.shape[2] * plan.size[0], status.shape[3] * plan.size[1]), dtype=bool)
    padded[:, :, :N, :M] = seen
    patterns = plan.patterns.numpy()
    wide = np.broadcast_to(ids.numpy(), status.shape)
    for b, h, r, c in np.argwhere(status == PARTIAL):
        i, j = r * plan.size[0], c * plan.size[1]
        tile = padded[b, h, i : i + plan.size[0], j : j + plan.size[1]]
        assert np.array_equal(patterns[wide[b, h, r, c]], tile), (mask, b, h, r, c)
    pairs = np.broadcast_to(seen, (B, H, N, M)).sum() / (B * H)
    assert abs(plan.count() - pairs) < 1e-9 * max(pairs, 1)
    assert abs(plan.density() - pairs / (N * M)) < 1e-12
    assert abs(plan.sparsity() - (status == EMPTY).mean()) < 1e-12


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_a_plan_equals_the_formula(data):
    far = 24
    mask, formula = data.draw(expressions(far), label="mask")
    N, M = data.draw(st.integers(1, far), label="N"), data.draw(st.integers(1, far), label="M")
    size = data.draw(st.one_of(st.integers(1, 9), st.tuples(st.integers(1, 9), st.integers(1, 9))), label="size")
    q, k = data.draw(positions(N, far), label="q"), data.draw(positions(M, far), label="k")
    assert_plan(mask, dense(formula, N, M, q, k), N, M, size, q, k)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_plan_of_many_tiles_equals_the_formula(data):
    # Above 4096 tiles classes are copied along diagonals.
    far = 300
    mask, formula = data.draw(leaves(far), label="mask")
    N, M = data.draw(st.integers(270, far), label="N"), data.draw(st.integers(270, far), label="M")
    size = data.draw(st.sampled_from([4, (4, 3), (3, 4), (2, 2)]), label="size")
    q = data.draw(st.one_of(st.none(), positions(N, far)), label="q")
    assert_plan(mask, dense(formula, N, M, q, None), N, M, size, q)


def test_a_neighbourhood_of_nothing_but_empty_slots_is_empty():
    where = neighbourhood((2, 1), window=(1, 1))
    for there in ({"k_positions": torch.tensor([-2])}, {"q_positions": torch.tensor([-1])}):
        assert (where.tiles(1, 1, (1, 1), **there).status == EMPTY).all()
