"""A tile plan as work: for each block of queries, the runs of key slots that some query of it may look at."""

from __future__ import annotations

import functools
import itertools
import weakref
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from regard.masks import EMPTY, TilePlan


@dataclass(frozen=True, eq=False)
class Edge:
    """Columns of a block's scores that not every query may look at: bias [rows, last - first], 0 or -inf."""

    first: int
    last: int
    bias: Tensor


@dataclass(frozen=True, eq=False)
class Block:
    """One block of queries of one (batch, head) of a plan.

    Its scores stand side by side in `keys` columns: one slice of key slots `main`; or with `spare` columns of other
    slots before it, laid over the slots just before `main`; or, with `main` None, the slots `index` gathered. `edges`
    mask columns; `empty` [rows] marks queries that see nothing, or is None where every query sees something. `run`
    counts the blocks from here on that are this one again, moved on by its number of queries.
    """

    start: int
    stop: int
    keys: int
    main: slice | None
    spare: Tensor | None
    index: Tensor | None
    edges: tuple[Edge, ...]
    empty: Tensor | None
    run: int = 1

    @property
    def slots(self) -> Tensor:
        """The key slot of every column."""
        if self.index is not None:
            return self.index
        assert self.main is not None
        own = torch.arange(self.main.start, self.main.stop, device=self.device)
        return own if self.spare is None else torch.cat([self.spare, own])

    @property
    def device(self) -> torch.device:
        """Where the masks of the block are."""
        held = [t for t in (self.index, self.spare, self.empty, *(edge.bias for edge in self.edges)) if t is not None]
        return held[0].device if held else torch.device("cpu")


@dataclass(frozen=True, eq=False)
class _Shape:
    """What blocks with the same tiles at the same distances share."""

    trims: list[tuple[int, int]]  # first and last visible key of each tile
    edges: tuple[Edge, ...]
    empty: Tensor | None


_KEPT: weakref.WeakKeyDictionary[TilePlan, dict[tuple, list[Block]]] = weakref.WeakKeyDictionary()


def blocks(plan: TilePlan, b: int, h: int, kind: torch.dtype, device: torch.device) -> list[Block]:
    """The work of one (batch, head) of a plan; blocks of one shape share their masks, and a plan keeps its work."""
    kept = _KEPT.setdefault(plan, {})
    key = (b, h, kind, device)
    if key not in kept:
        kept[key] = _blocks(plan, _patterns(plan, kept, kind, device), b, h, device)
    return kept[key]


class _Patterns:
    """What is asked of the patterns of partial tiles again and again."""

    def __init__(self, plan: TilePlan, kind: torch.dtype, device: torch.device) -> None:
        self.seen, self.kind, self.device = plan.patterns, kind, device
        columns, self.rows = self.seen.any(1), self.seen.any(2)
        width = columns.shape[1]
        self.first = columns.int().argmax(1).tolist()
        self.last = (width - columns.flip(1).int().argmax(1)).tolist()
        self._biases: dict[tuple[int, int, int, int], Tensor | None] = {}

    def bias(self, number: int, rows: int, first: int, last: int) -> Tensor | None:
        """0 where a pattern is visible and -inf elsewhere; None where all of it is visible."""
        key = (number, rows, first, last)
        if key not in self._biases:
            seen = self.seen[number, :rows, first:last].to(self.device)
            hidden = torch.zeros(seen.shape, dtype=self.kind, device=self.device).masked_fill_(~seen, -torch.inf)
            self._biases[key] = None if bool(seen.all()) else hidden
        return self._biases[key]


def _patterns(plan: TilePlan, kept: dict, kind: torch.dtype, device: torch.device) -> _Patterns:
    key = ("patterns", kind, device)
    if key not in kept:
        kept[key] = _Patterns(plan, kind, device)
    return kept[key]


def _blocks(plan: TilePlan, patterns: _Patterns, b: int, h: int, device: torch.device) -> list[Block]:
    status, ids = plan.status[b, h].numpy(), plan.pattern_ids[b, h].numpy()
    rows, cols = plan.size
    shared: dict[tuple, _Shape] = {}
    slots = functools.cache(functools.partial(_slots, device=device))
    work = []
    for r in range(status.shape[0]):
        start, stop = r * rows, min(plan.N, (r + 1) * rows)
        tiles = np.flatnonzero(status[r] != EMPTY).tolist()
        if not tiles:
            none = torch.ones(stop - start, dtype=torch.bool, device=device)
            work.append(Block(start, stop, 0, None, None, None, (), none))
            continue
        numbers = ids[r, tiles].tolist()
        joined = [False, *(c - before == 1 for before, c in itertools.pairwise(tiles))]
        ragged = min(cols, plan.M - tiles[-1] * cols)
        # How far apart two runs lie does not change a block's masks; whether they touch does.
        key = (stop - start, tuple(joined), tuple(numbers), ragged)
        if key not in shared:
            shared[key] = _shape(patterns, numbers, joined, stop - start, cols, ragged)
        work.append(_block(shared[key], tiles, cols, start, stop, slots))
    return _counted(work)


def _counted(work: list[Block]) -> list[Block]:
    """The same blocks, each knowing how long a run it starts."""
    found: list[Block] = []
    for block in reversed(work):
        found.append(replace(block, run=found[-1].run + 1) if found and _moved(block, found[-1]) else block)
    return found[::-1]


def _moved(block: Block, after: Block) -> bool:
    step = block.stop - block.start
    return (
        block.main is not None
        and after.main is not None
        and after.stop - after.start == step
        and (after.main.start, after.main.stop) == (block.main.start + step, block.main.stop + step)
        and after.edges is block.edges
        and after.spare is block.spare
        and block.empty is None
        and after.empty is None
    )


def _block(
    shape: _Shape, tiles: list[int], cols: int, start: int, stop: int, slots: Callable[[tuple], Tensor]
) -> Block:
    spans: list[tuple[int, int]] = []
    for c, (first, last) in zip(tiles, shape.trims, strict=True):
        if spans and spans[-1][1] == c * cols + first:
            spans[-1] = (spans[-1][0], c * cols + last)
        else:
            spans.append((c * cols + first, c * cols + last))
    *others, (first, last) = spans
    aside = sum(z - a for a, z in others)
    keys = aside + last - first
    if not others:
        return Block(start, stop, keys, slice(first, last), None, None, shape.edges, shape.empty)
    # A few keys apart (such as sinks) are cheaper laid over unneeded columns than gathered with all the rest.
    if aside <= first and 4 * aside <= last - first:
        return Block(start, stop, keys, slice(first, last), slots(tuple(others)), None, shape.edges, shape.empty)
    return Block(start, stop, keys, None, None, slots(tuple(spans)), shape.edges, shape.empty)


def _slots(spans: tuple[tuple[int, int], ...], device: torch.device) -> Tensor:
    return torch.from_numpy(np.concatenate([np.arange(a, z) for a, z in spans])).to(device)


def _shape(patterns: _Patterns, numbers: list[int], joined: list[bool], rows: int, cols: int, ragged: int) -> _Shape:
    """Trim tiles to their visible keys and turn partial ones into edges.

    Keys between the first and the last visible one of a run of adjacent tiles stay, so that the run is one slice.
    """
    trims: list[tuple[int, int]] = []
    edges: list[Edge] = []
    place = 0
    for n, number in enumerate(numbers):
        width = ragged if n == len(numbers) - 1 else cols
        if number < 0:
            trims.append((0, width))
            place += width
            continue
        first = 0 if joined[n] else patterns.first[number]
        last = width if n + 1 < len(numbers) and joined[n + 1] else min(width, patterns.last[number])
        bias = patterns.bias(number, rows, first, last)
        if bias is not None:
            edges.append(Edge(place, place + last - first, bias))
        trims.append((first, last))
        place += last - first
    if any(number < 0 for number in numbers):
        return _Shape(trims, tuple(edges), None)
    some = patterns.rows[numbers, :rows].any(0).to(patterns.device)
    return _Shape(trims, tuple(edges), None if bool(some.all()) else ~some)
