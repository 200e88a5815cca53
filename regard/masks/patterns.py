"""The patterns of tiles: which tiles share one, and what it is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from regard.masks.axis import Axis
from regard.masks.bounds import Array
from regard.masks.grid import Grid

if TYPE_CHECKING:
    from regard.masks.base import Mask

_BUDGET = 1 << 22  # pairs evaluated at a time


@dataclass(frozen=True, eq=False)
class Spot:
    """Some tiles of a grid: batch index, head index, row and column of each, [K]."""

    grid: Grid
    b: Array
    h: Array
    r: Array
    c: Array

    @staticmethod
    def of(grid: Grid, tiles: Array) -> Spot:
        return Spot(grid, *tiles.T)

    def some(self, which: Array) -> Spot:
        """Those tiles alone."""
        return Spot(self.grid, self.b[which], self.h[which], self.r[which], self.c[which])

    def rows(self, values: Array) -> Array:
        """Values [B|1, H|1, Tq] of each tile's row."""
        return values[(*self._lead(values), self.r)]

    def cols(self, values: Array) -> Array:
        """Values [B|1, H|1, Tk] of each tile's column."""
        return values[(*self._lead(values), self.c)]

    def tiles(self, values: Array) -> Array:
        """Values that broadcast to [B, H, Tq, Tk], of each tile."""
        place = (self.r if values.shape[2] > 1 else 0, self.c if values.shape[3] > 1 else 0)
        return np.broadcast_to(values[self._lead(values) + place], self.r.shape)

    def _lead(self, values: Array) -> tuple[Array | int, Array | int]:
        return self.b if values.shape[0] > 1 else 0, self.h if values.shape[1] > 1 else 0

    @cached_property
    def q_base(self) -> Array:
        return self.rows(self.grid.q.base)

    @cached_property
    def k_base(self) -> Array:
        return self.cols(self.grid.k.base)

    @cached_property
    def solid(self) -> Array:
        return self.rows(self.grid.q.solid) & self.cols(self.grid.k.solid)

    @property
    def extents(self) -> list[Array]:
        """The places of each tile's first and last real query and key."""
        q, k = self.grid.q, self.grid.k
        return [
            self.rows(_place(q, q.first)),
            self.rows(_place(q, q.last)),
            self.cols(_place(k, k.first)),
            self.cols(_place(k, k.last)),
        ]


def _place(axis: Axis, position: Array) -> Array:
    return np.where(axis.some, position - axis.base, -1)


def group(mask: Mask, grid: Grid, tiles: Array) -> tuple[Array, Array]:
    """Group tiles [K, 4] of one pattern: the index of one tile of each group, and each tile's group."""
    if not len(tiles):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    spot = Spot.of(grid, tiles)
    if grid.solid is True:
        return distinct(mask.signature(spot) + spot.extents)
    alike = np.nonzero(spot.solid)[0]
    alone = np.nonzero(~spot.solid)[0]
    groups = np.empty(len(tiles), dtype=np.int64)
    groups[alone] = np.arange(len(alone))
    if not len(alike):
        return alone, groups
    part = spot.some(alike)
    first, groups[alike] = distinct(mask.signature(part) + part.extents)
    groups[alike] += len(alone)
    return np.concatenate([alone, alike[first]]), groups


def distinct(keys: list[Array]) -> tuple[Array, Array]:
    """Number the different rows of integer columns [K]: the index of one row of each kind, and each row's kind."""
    code, span = np.zeros(len(keys[0]), dtype=np.int64), 1
    for key in keys:
        low, high = int(key.min()), int(key.max())
        if low == high:
            continue
        if span * (high - low + 1) >= 1 << 62:
            code = np.unique(code, return_inverse=True)[1]
            span = int(code.max()) + 1
        code = code * (high - low + 1) + (key - low)
        span *= high - low + 1
    if span > 4 * len(code) + _BUDGET:
        _, first, kind = np.unique(code, return_index=True, return_inverse=True)
        return first, kind
    table = np.full(span, -1, dtype=np.int64)
    table[code] = np.arange(len(code))
    found = table >= 0
    return table[found], (np.cumsum(found) - 1)[code]


def evaluate(mask: Mask, grid: Grid, tiles: Array) -> Tensor:
    """The patterns of tiles [K, 4], boolean [K, rows, cols], False outside N and M and at empty slots."""
    parts = [_evaluate(mask, grid, part) for part in _split(tiles, grid)]
    if not parts:
        return torch.zeros(0, grid.rows, grid.cols, dtype=torch.bool, device=grid.device)
    found = torch.cat(parts)
    missing = (0, grid.cols - found.shape[2], 0, grid.rows - found.shape[1])
    return torch.nn.functional.pad(found, missing) if any(missing) else found


def visible(mask: Mask, grid: Grid, tiles: Array) -> Array:
    """The number of visible pairs in each of the tiles [K, 4], evaluated a few at a time."""
    parts = [_evaluate(mask, grid, part).flatten(1).sum(1, dtype=torch.int32) for part in _split(tiles, grid)]
    return torch.cat(parts).cpu().numpy() if parts else np.zeros(0, dtype=np.int32)


def _split(tiles: Array, grid: Grid) -> list[Array]:
    step = max(1, _BUDGET // (grid.rows * grid.cols))
    return [tiles[start : start + step] for start in range(0, len(tiles), step)]


def _evaluate(mask: Mask, grid: Grid, tiles: Array) -> Tensor:
    """Tiles pair by pair, cut to N and M where there is less than a tile."""
    b, h, r, c = tiles.T
    (i, real_i), (j, real_j) = grid.q.held(b, h, r), grid.k.held(b, h, c)
    shape = (len(tiles), i.shape[1], j.shape[1])

    def sent(values: Array) -> Tensor:
        found = torch.from_numpy(values)
        return found if grid.device.type == "cpu" else found.to(grid.device)

    seen = mask.at(sent(b[:, None, None]), sent(h[:, None, None]), sent(i[:, :, None]), sent(j[:, None, :]))
    if real_i is not None:
        seen = seen & sent(real_i[:, :, None])
    if real_j is not None:
        seen = seen & sent(real_j[:, None, :])
    return seen.expand(shape)
