"""Which keys each query sees, as lists."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from regard.errors import ShapeError
from regard.masks.axis import Axis
from regard.masks.base import Mask
from regard.masks.bounds import UNKNOWN, Array, Bounds
from regard.masks.grid import Grid


@dataclass(frozen=True, eq=False)
class Keys(Mask):
    """Pairs of a query and a key on its list.

    Shapes: `index` int64 [B|1, H|1, n, k], the key positions seen by the query at position `start` + row; -1 is none.
    """

    index: Tensor
    start: int
    ordered: Tensor | None = field(init=False, repr=False, default=None)  # each list in order, 2^n long

    @property
    def grain(self) -> tuple[int, int]:
        return 1, 1

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if i.dim() == j.dim() >= 2 and i.shape[-1] == 1 and j.shape[-2] == 1:
            return self._block(b, h, i, j)
        return self._searched(b, h, i, j)

    def _listed(self, index: Tensor, b: Tensor, h: Tensor, i: Tensor) -> tuple[Tensor, ...]:
        """Where a query's list is, and whether it has one."""
        B, H, n, _ = index.shape
        row = i - self.start
        lead = (b if B > 1 else torch.zeros_like(b), h if H > 1 else torch.zeros_like(h))
        return *lead, row.clamp(0, n - 1), (row >= 0) & (row < n)

    def _block(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Queries [.., n, 1] against keys [.., 1, m]: mark the lists in a table over positions, then read it."""
        index = self.index.to(i.device)
        *place, listed = self._listed(index, b, h, i)
        lists = index[tuple(place)].squeeze(-2)
        j = j.clamp(min=0)
        least = j.amin(-1, keepdim=True) if j.numel() else j.new_zeros(1)
        j = j - least
        width = int(j.max()) + 1 if j.numel() else 0
        lists = torch.where(listed & (lists >= least), lists - least, width).clamp(max=width)
        table = torch.zeros(*lists.shape[:-1], width + 1, dtype=torch.bool, device=i.device)
        table.scatter_(-1, lists, True)
        if j.numel() == j.shape[-1]:
            return table[..., j.flatten()]
        lead = torch.broadcast_shapes(table.shape[:-2], j.shape[:-2])
        table = table.expand(*lead, *table.shape[-2:])
        return table.gather(-1, j.expand(*lead, table.shape[-2], j.shape[-1]))

    def _searched(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Any broadcasting indices, scalars under vmap too: a binary search of each sorted list."""
        self.ready()
        assert self.ordered is not None
        index = self.ordered.to(i.device)
        *place, listed = self._listed(index, b, h, i)
        at, step = torch.zeros_like(place[-1] + j), index.shape[-1] // 2
        while step:
            at = at + step * (index[(*place, at + step - 1)] < j)
            step //= 2
        return (index[(*place, at)] == j) & listed & (j >= 0)

    def ready(self) -> None:
        if self.ordered is None:
            missing = (1 << (self.index.shape[-1] - 1).bit_length()) - self.index.shape[-1]
            padded = torch.nn.functional.pad(self.index, (0, missing), value=torch.iinfo(torch.int64).max)
            object.__setattr__(self, "ordered", padded.sort(-1).values)

    def bounds(self, grid: Grid) -> Bounds:
        lead = np.broadcast_shapes(tuple(self.index.shape[:2]), grid.q.base.shape[:2], grid.k.base.shape[:2])
        B, H = grid.k.base.shape[:2]
        tiles = {(b, h): _key_tiles(grid.k, b, h) for b, h in np.ndindex(B, H)}
        if not all(len(found) for found in tiles.values()):
            return UNKNOWN
        held = np.empty((*lead, *grid.shape), dtype=np.int64)
        for b, h in np.ndindex(*lead):
            held[b, h] = self._touched(grid, b, h, tiles[b % B, h % H])
        # A key listed twice counts twice, so tiles that might be full are left undecided.
        pairs = _reals(grid.q)[..., None] * _reals(grid.k)[..., None, :]
        return Bounds(held > 0, np.zeros_like(held, dtype=bool), (held > 0) & (held < pairs))

    def _touched(self, grid: Grid, b: int, h: int, tiles: Array) -> Array:
        """How many entries of the lists fall into each tile."""
        B, H, n, _ = self.index.shape
        lists = self._lists[b if B > 1 else 0, h if H > 1 else 0]
        down, across = grid.shape
        i = grid.q.places(b, h)
        place = np.nonzero((i >= self.start) & (i < self.start + n))[0]
        if len(place) == n and i[place[0]] == self.start and (np.diff(i[place]) == 1).all():
            rows = lists
        else:
            rows = lists[i[place] - self.start]
        columns = tiles[np.clip(rows, -1, len(tiles) - 1)]  # the last entry, as the one for -1, is no tile
        code = (place // grid.rows * (across + 1)).astype(np.int32)[:, None] + columns
        held = np.bincount(code.ravel(), minlength=down * (across + 1)).reshape(down, across + 1)
        return held[:, :across]

    @cached_property
    def _lists(self) -> Array:
        return self.index.cpu().numpy()

    @property
    def axes(self) -> tuple[int, int]:
        return self.index.shape[0], self.index.shape[1]

    def __repr__(self) -> str:
        return f"keys({list(self.index.shape)}, start={self.start})"


def _key_tiles(axis: Axis, b: int, h: int) -> Array:
    """The tile column of each key position and, at the end, of none; empty where two keys share a position."""
    j = axis.places(b, h)
    real = np.nonzero(j >= 0)[0]
    tiles = np.full(int(j.max(initial=-1)) + 2, axis.tiles, dtype=np.int32)
    tiles[j[real]] = real // axis.size
    return tiles if np.count_nonzero(tiles < axis.tiles) == len(real) else tiles[:0]


def _reals(axis: Axis) -> Array:
    """Real places in each tile, at least where the tile is solid; elsewhere a number that is never reached."""
    return np.where(axis.solid, np.where(axis.some, axis.last - axis.first + 1, 1), 1)


def keys(index: Tensor, start: int = 0) -> Mask:
    """The keys that each query sees, as lists of positions.

    Shapes: `index` integers [n, k], [B, n, k] or [B, H, n, k]: the key positions that the query at position
    `start` + row may look at; -1 is none, and a key listed twice is seen once. Other queries see nothing.
    Raises: ValueError where the index is not of integers, has no columns, or start < 0; ShapeError where it has other
    axes.
    """
    if index.dtype.is_floating_point or index.dtype.is_complex or index.dtype == torch.bool:
        raise ValueError(f"keys' index must be integers; got {index.dtype}. Use .long(), or blocks() for a table.")
    if start < 0:
        raise ValueError(f"keys' start must be at least 0; got {start}.")
    if index.dim() not in (2, 3, 4) or not index.numel():
        raise ShapeError(f"keys' index must be [n, k], [B, n, k] or [B, H, n, k]; got {list(index.shape)}.")
    index = index.long()
    return Keys(index[None, None] if index.dim() == 2 else index[:, None] if index.dim() == 3 else index, start)
