"""Which blocks of keys each block of queries sees, as a table."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from regard.errors import ShapeError
from regard.masks.base import Mask
from regard.masks.bounds import Array, Bounds
from regard.masks.grid import Grid
from regard.masks.patterns import Spot

_CELLS = 60  # entries of a table under one tile that are told apart by the bits of a number


@dataclass(frozen=True, eq=False)
class Blocks(Mask):
    """Pairs whose entry in a table over blocks of positions is True.

    Shapes: `table` boolean [B|1, H|1, Tq, Tk]; `rows` x `cols` positions to an entry.
    """

    table: Tensor
    rows: int
    cols: int
    bordered: Tensor = field(init=False, repr=False)  # with an empty row and column at its end, for positions past it

    def __post_init__(self) -> None:
        object.__setattr__(self, "bordered", torch.nn.functional.pad(self.table, (0, 1, 0, 1)))

    @property
    def grain(self) -> tuple[int, int]:
        return self.rows, self.cols

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        table, (B, H, down, across) = self.bordered.to(i.device), self.table.shape
        r, c = (i // self.rows).clamp(0, down), (j // self.cols).clamp(0, across)
        lead = (b if B > 1 else torch.zeros_like(b), h if H > 1 else torch.zeros_like(h))
        return table[(*lead, r, c)]

    def bounds(self, grid: Grid) -> Bounds:
        _, _, down, across = self.table.shape
        r0, r1 = grid.q.first // self.rows, grid.q.last // self.rows
        c0, c1 = grid.k.first // self.cols, grid.k.last // self.cols
        area = (r1 - r0 + 1)[..., None] * (c1 - c0 + 1)[..., None, :]
        r0, r1 = np.clip(r0, 0, down), np.clip(r1 + 1, 0, down)
        c0, c1 = np.clip(c0, 0, across), np.clip(c1 + 1, 0, across)
        sums = self._sums
        held = _pick(sums, r1, c1) - _pick(sums, r0, c1) - _pick(sums, r1, c0) + _pick(sums, r0, c0)
        return Bounds.sound(held > 0, held == area, grid.solid)

    def signature(self, spot: Spot) -> list[Array]:
        q, k, grid = spot.q_base, spot.k_base, spot.grid
        r0, r1 = q // self.rows, (q + grid.rows - 1) // self.rows
        c0, c1 = k // self.cols, (k + grid.cols - 1) // self.cols
        down, across = int((r1 - r0).max()) + 1, int((c1 - c0).max()) + 1
        if down * across > _CELLS:
            return super().signature(spot)
        # The entries under each tile, as the bits of a number, and where in an entry the tile begins.
        table, code = self.bordered.cpu().numpy(), np.zeros(len(q), dtype=np.int64)
        lead = (spot.b if table.shape[0] > 1 else 0, spot.h if table.shape[1] > 1 else 0)
        for r, c in np.ndindex(down, across):
            entry = table[(*lead, np.clip(r0 + r, 0, table.shape[2] - 1), np.clip(c0 + c, 0, table.shape[3] - 1))]
            code = 2 * code + (entry & (r0 + r <= r1) & (c0 + c <= c1))
        return [code, q % self.rows, k % self.cols]

    @cached_property
    def _sums(self) -> Array:
        """True entries above and left of each corner."""
        table = self.table.cpu().numpy()
        sums = np.zeros((*table.shape[:2], table.shape[2] + 1, table.shape[3] + 1), dtype=np.int32)
        np.cumsum(table, axis=2, out=sums[:, :, 1:, 1:])
        np.cumsum(sums[:, :, 1:, 1:], axis=3, out=sums[:, :, 1:, 1:])
        return sums

    @property
    def axes(self) -> tuple[int, int]:
        return self.table.shape[0], self.table.shape[1]

    def __repr__(self) -> str:
        return f"blocks({list(self.table.shape)}, size=({self.rows}, {self.cols}))"


def _pick(sums: Array, r: Array, c: Array) -> Array:
    """Entries at rows [B|1, H|1, Tq] and columns [B|1, H|1, Tk]."""
    if r.shape[:2] == (1, 1) == c.shape[:2]:
        return sums[:, :, r[0, 0]][..., c[0, 0]]
    B, H = (np.arange(n) if n > 1 else np.zeros(1, dtype=np.int64) for n in sums.shape[:2])
    return sums[B[:, None, None, None], H[None, :, None, None], r[..., None], c[..., None, :]]


def blocks(tile_map: Tensor, size: int | tuple[int, int]) -> Mask:
    """A table says which block of keys each block of queries sees: `tile_map[i // size, j // size]`.

    Shapes: `tile_map` boolean [Tq, Tk], [H, Tq, Tk] or [B, H, Tq, Tk]; `size` positions to an entry, or one number for
    queries and one for keys. Positions past the table see nothing and are not seen.
    Raises: ValueError where the table is not boolean or the size below 1; ShapeError where it has other axes.
    """
    rows, cols = (size, size) if isinstance(size, int) else size
    if rows < 1 or cols < 1:
        raise ValueError(f"blocks' size must be at least 1; got {size}.")
    if tile_map.dtype != torch.bool:
        raise ValueError(f"blocks' tile_map must be boolean; got {tile_map.dtype}. Use tile_map > 0.")
    if tile_map.dim() not in (2, 3, 4) or not tile_map.numel():
        raise ShapeError(
            f"blocks' tile_map must be [Tq, Tk], [H, Tq, Tk] or [B, H, Tq, Tk]; got {list(tile_map.shape)}."
        )
    return Blocks(tile_map[(None,) * (4 - tile_map.dim())], rows, cols)
