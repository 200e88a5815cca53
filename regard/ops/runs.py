"""A tile plan as work: for each block of queries, the runs of key slots that some query of it may look at."""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.masks import EMPTY, TilePlan

_MANY = 4  # more runs than this are gathered into one


@dataclass(frozen=True, eq=False)
class Block:
    """One block of queries of one (batch, head) of a plan.

    `runs` are key slots as slices, or one index tensor where there would be many; `bias` [rows, keys] is 0 where
    visible and -inf elsewhere, over the runs side by side, or None where all is visible; `empty` [rows] marks queries
    that see nothing, or is None where every query sees something.
    """

    start: int
    stop: int
    runs: list[slice] | list[Tensor]
    keys: int
    bias: Tensor | None
    empty: Tensor | None


def blocks(plan: TilePlan, b: int, h: int, kind: torch.dtype, device: torch.device) -> list[Block]:
    """The work of one (batch, head) of a plan; blocks of one shape share their bias, and a plan keeps its work."""
    kept = _KEPT.setdefault(plan, {})
    key = (b, h, kind, device)
    if key not in kept:
        kept[key] = _blocks(plan, b, h, kind, device)
    return kept[key]


_KEPT: weakref.WeakKeyDictionary[TilePlan, dict[tuple, list[Block]]] = weakref.WeakKeyDictionary()


def _blocks(plan: TilePlan, b: int, h: int, kind: torch.dtype, device: torch.device) -> list[Block]:
    status, ids = plan.status[b, h], plan.pattern_ids[b, h]
    rows, cols = plan.size
    shared: dict[tuple, tuple[list[tuple[int, int]], Tensor | None, Tensor | None]] = {}
    work = []
    for r in range(status.shape[0]):
        start, stop = r * rows, min(plan.N, (r + 1) * rows)
        tiles = (status[r] != EMPTY).nonzero().flatten().tolist()
        if not tiles:
            work.append(Block(start, stop, [], 0, None, torch.ones(stop - start, dtype=torch.bool, device=device)))
            continue
        numbers = ids[r, tiles].tolist()
        steps = [0, *(c - before for before, c in itertools.pairwise(tiles))]
        ragged = min(cols, plan.M - tiles[-1] * cols)
        # How far apart two runs lie does not change a block's shape; whether they touch does.
        key = (stop - start, tuple(min(step, 2) for step in steps), tuple(numbers), ragged)
        if key not in shared:
            shared[key] = _shape(plan, numbers, steps, stop - start, ragged, kind, device)
        trims, bias, empty = shared[key]
        spans: list[tuple[int, int]] = []
        for c, (first, last) in zip(tiles, trims, strict=True):
            if spans and spans[-1][1] == c * cols + first:
                spans[-1] = (spans[-1][0], c * cols + last)
            else:
                spans.append((c * cols + first, c * cols + last))
        runs: list[slice] | list[Tensor] = [slice(a, z) for a, z in spans]
        if len(spans) > _MANY:
            runs = [torch.cat([torch.arange(a, z, device=device) for a, z in spans])]
        work.append(Block(start, stop, runs, sum(z - a for a, z in spans), bias, empty))
    return work


def _shape(
    plan: TilePlan,
    numbers: list[int],
    steps: list[int],
    rows: int,
    ragged: int,
    kind: torch.dtype,
    device: torch.device,
) -> tuple[list[tuple[int, int]], Tensor | None, Tensor | None]:
    """First and last visible key of each tile, and the bias and empty rows over those keys side by side.

    Keys between the first and the last visible one of a run of adjacent tiles stay, so that the run is one slice.
    """
    cols = plan.size[1]
    trims: list[tuple[int, int]] = []
    seen: list[Tensor] = []
    for place, number in enumerate(numbers):
        width = ragged if place == len(numbers) - 1 else cols
        if number < 0:
            tile = torch.ones(rows, width, dtype=torch.bool, device=device)
        else:
            tile = plan.patterns[number][:rows, :width].to(device)
        visible = tile.any(0).nonzero().flatten()
        joins_before = place > 0 and steps[place] == 1
        joins_after = place + 1 < len(numbers) and steps[place + 1] == 1
        first = 0 if joins_before else int(visible[0])
        last = width if joins_after else int(visible[-1]) + 1
        seen.append(tile[:, first:last])
        trims.append((first, last))
    whole = torch.cat(seen, 1)
    if whole.all():
        return trims, None, None
    empty = ~whole.any(1)
    bias = torch.zeros(whole.shape, dtype=kind, device=device).masked_fill_(~whole, -torch.inf)
    # A row of -inf alone would turn to NaN; it is zeroed afterwards.
    bias[empty] = 0.0
    return trims, bias, empty if empty.any() else None
