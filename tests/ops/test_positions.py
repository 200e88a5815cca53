"""Explicit positions: padding, evicted and shuffled caches, positions of each head; negative ones are empty slots."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard import masks
from regard.ops import attend
from tests import oracle
from tests.ops.cases import ENGINES, SHAPES, Shape, assert_equals, bound, seeded, tensors

S = Shape(2, 4, 2, 30, 150, 8, 8)


def _padded(left: list[int]) -> Tensor:
    """[B, M], the first slots of each batch row empty, then 0, 1, 2, ..."""
    return torch.stack([torch.arange(S.M) - pad for pad in left])


def _evicted() -> Tensor:
    """[B, H, M]: every head has kept other positions of 0..299, and some slots are unused."""
    make = seeded(4)
    kept = [torch.randperm(300, generator=make)[: S.M].sort().values for _ in range(S.B * S.H)]
    found = torch.stack(kept).view(S.B, S.H, S.M)
    found[:, :, 100:110] = -1
    return found


POSITIONS = {
    "queries": (torch.arange(S.N) * 4, None),
    "queries_of_a_batch": (torch.stack([torch.arange(S.N), torch.arange(S.N) + 90]), None),
    "padded": (_padded([20, 3])[:, -S.N :], _padded([20, 3])),
    "padded_beyond_some_queries": (_padded([130, 0])[:, -S.N :], _padded([130, 0])),
    "evicted": (torch.arange(S.N) + 270, _evicted()),
    "shuffled": (None, torch.randperm(S.M, generator=seeded(5))),
    "queries_of_a_head": (torch.randint(-2, 150, (S.B, S.H, S.N), generator=seeded(6)), None),
    "heads_of_both": (torch.randint(0, 300, (1, S.H, S.N), generator=seeded(7)), _evicted()),
    "no_keys": (None, torch.full((S.M,), -1)),
    "int32": (torch.arange(S.N, dtype=torch.int32), torch.arange(S.M, dtype=torch.int32)),
}

IDS = torch.arange(320) // 40
TABLE = torch.rand(S.H, 40, 40, generator=seeded(8)) < 0.5
MASKS = {
    "none": (None, lambda b, h, i, j: (i == i) & (j == j)),
    "causal": (masks.causal(), lambda b, h, i, j: j <= i),
    "window_and_sinks": (
        masks.causal() & (masks.window(20) | masks.sinks(3)),
        lambda b, h, i, j: (j <= i) & ((i - 20 < j) | (j < 3)),
    ),
    "documents": (masks.documents(IDS) & masks.causal(), lambda b, h, i, j: (i // 40 == j // 40) & (j <= i)),
    "blocks": (masks.blocks(TABLE, 8), lambda b, h, i, j: TABLE.numpy()[h, i // 8, j // 8]),
}


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("given", POSITIONS)
@pytest.mark.parametrize("engine", ENGINES)
def test_positions_decide_who_looks_where(engine, given, mask):
    q, k, v = tensors(S)
    q_positions, k_positions = POSITIONS[given]
    where, formula = MASKS[mask]
    i = oracle.places(q_positions, S.N, S.M - S.N, S.B, S.H)
    j = oracle.places(k_positions, S.M, 0, S.B, S.H)
    expected = oracle.attention(q, k, v, oracle.visible(formula, i, j))
    state = attend(
        q, k, v, where=where, q_positions=q_positions, k_positions=k_positions, state=True, engine=ENGINES[engine]
    )
    atol = bound(q, k, v, torch.float64)
    assert_equals(state.out, expected.out, atol)
    seen = ~torch.isinf(torch.from_numpy(expected.lse))
    assert (state.lse[~seen] == -torch.inf).all()
    assert_equals(state.lse[seen], expected.lse[seen.numpy()], atol)


@pytest.mark.parametrize("engine", ENGINES)
def test_pages_in_any_order_give_what_a_contiguous_cache_gives(engine):
    s = SHAPES["many_tiles"]
    q, k, v = tensors(s)
    where = masks.causal() & (masks.window(90) | masks.sinks(5))
    page = 16
    order = torch.randperm(s.M // page, generator=seeded(9))
    slots = (order[:, None] * page + torch.arange(page)).flatten()
    whole = attend(q, k, v, where=where, engine="reference")
    paged = attend(q, k[:, :, slots], v[:, :, slots], where=where, k_positions=slots, engine=ENGINES[engine])
    assert_equals(paged, whole.numpy(), bound(q, k, v, torch.float64))


@pytest.mark.parametrize("engine", ENGINES)
def test_padding_in_a_batch_equals_the_sequences_on_their_own(engine):
    s = Shape(2, 4, 2, 60, 60, 8, 8)
    q, k, v = tensors(s)
    pads = [25, 0]
    positions = torch.stack([torch.arange(s.M) - pad for pad in pads])
    found = attend(q, k, v, where=masks.causal(), q_positions=positions, k_positions=positions, engine=ENGINES[engine])
    for b, pad in enumerate(pads):
        own = [t[b : b + 1, :, pad:] for t in (q, k, v)]
        alone = attend(*own, where=masks.causal(), engine="reference")
        assert_equals(found[b : b + 1, :, pad:], alone.numpy(), bound(q, k, v, torch.float64))
        assert (found[b, :, :pad] == 0).all()
