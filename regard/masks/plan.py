"""A mask classified tile by tile, and the patterns of its partial tiles, each stored once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regard.masks.grid import Grid

if TYPE_CHECKING:
    from regard.masks.base import Mask

EMPTY, PARTIAL, FULL = 0, 1, 2
_BUDGET = 1 << 24  # pairs evaluated at a time


@dataclass(frozen=True, eq=False)
class TilePlan:
    """Which tiles of a mask are EMPTY, PARTIAL or FULL.

    Shapes: `status` int8 [B|1, H|1, Tq, Tk], on the CPU. `size` = queries and keys per tile; the last tiles may be ragged.
    """

    mask: Mask
    grid: Grid
    status: Tensor
    batch: int
    heads: int

    @property
    def N(self) -> int:
        return self.grid.N

    @property
    def M(self) -> int:
        return self.grid.M

    @property
    def size(self) -> tuple[int, int]:
        return self.grid.rows, self.grid.cols

    @cached_property
    def _numbered(self) -> tuple[Tensor, Tensor]:
        where = (self.status == PARTIAL).nonzero()
        ids = torch.full(self.status.shape, -1, dtype=torch.int32)
        first, group = _representatives(self.mask, self.grid, where)
        ids[tuple(where.T)] = group.to(torch.int32)
        return ids, where[first]

    @property
    def pattern_ids(self) -> Tensor:
        """int32 [B|1, H|1, Tq, Tk]: which row of `patterns` a PARTIAL tile has; -1 elsewhere."""
        return self._numbered[0]

    @cached_property
    def patterns(self) -> Tensor:
        """Boolean [P, rows, cols]: the different patterns of PARTIAL tiles; False outside N and M."""
        return _evaluate(self.mask, self.grid, self._numbered[1])

    def pattern(self, b: int, h: int, r: int, c: int) -> Tensor:
        """The pairs of one tile, ragged tiles clipped: boolean [<=rows, <=cols]."""
        rows = min(self.grid.rows, self.N - r * self.grid.rows)
        cols = min(self.grid.cols, self.M - c * self.grid.cols)
        return _evaluate(self.mask, self.grid, torch.tensor([[b, h, r, c]]))[0, :rows, :cols]

    @cached_property
    def extents(self) -> tuple[Tensor, Tensor]:
        """Real rows of each tile row [Tq] and real columns of each tile column [Tk]."""
        down, across = self.grid.shape
        rows = (self.N - torch.arange(down) * self.grid.rows).clamp(max=self.grid.rows)
        cols = (self.M - torch.arange(across) * self.grid.cols).clamp(max=self.grid.cols)
        return rows, cols

    def count(self) -> float:
        """Visible pairs, averaged over the plan's batch and head axes."""
        rows, cols = self.extents
        full = (self.status == FULL).double()
        pairs = torch.einsum("bhrc,r,c->", full, rows.double(), cols.double()).item()
        if (self.status == PARTIAL).any():
            ids = self.pattern_ids[self.pattern_ids >= 0]
            held = torch.bincount(ids.long(), minlength=len(self.patterns)).double()
            pairs += (held * self.patterns.flatten(1).sum(1).cpu().double()).sum().item()
        return pairs / (self.status.shape[0] * self.status.shape[1])

    def sparsity(self) -> float:
        """Share of tiles that is EMPTY."""
        return (self.status == EMPTY).double().mean().item()


def plan(mask: Mask, grid: Grid, batch: int = 1, heads: int = 1) -> TilePlan:
    """Classify every tile of a mask on a grid, evaluating only tiles that the bounds leave undecided."""
    known, present = mask.bounds(grid), grid.present
    may = known.may & present.may
    full = known.must & present.must
    mixed = (known.mixed & present.may) | (known.must & present.mixed)
    shape = torch.broadcast_shapes(may.shape, full.shape, mixed.shape, grid.i.shape[:2] + (1, 1), grid.j.shape[:2] + (1, 1))
    status = (may & ~full).to(torch.int8).expand(*shape[:2], *grid.shape).clone()
    status[full.expand_as(status)] = FULL
    undecided = (may & ~full & ~mixed).expand_as(status).cpu()
    status = status.cpu()
    if undecided.any():
        varying = _varies(mask, grid, batch, heads, status.shape)
        if varying != status.shape:
            status, undecided = status.expand(varying).clone(), undecided.expand(varying)
        where = undecided.nonzero()
        first, group = _representatives(mask, grid, where)
        status[tuple(where.T)] = _classes(mask, grid, where[first])[group]
    return TilePlan(mask, grid, status, batch, heads)


def _varies(mask: Mask, grid: Grid, batch: int, heads: int, shape: torch.Size) -> torch.Size:
    """The status shape widened by the axes along which an undecided tile's pattern varies."""
    b = torch.arange(max(batch, shape[0])).view(-1, 1, 1, 1)
    h = torch.arange(max(heads, shape[1])).view(1, -1, 1, 1)
    device = grid.i.device
    probe = mask.at(b.to(device), h.to(device), grid.i[..., :1, None], grid.j[..., None, :1])
    return torch.broadcast_shapes(shape, probe.shape[:2] + (1, 1))


def _representatives(mask: Mask, grid: Grid, where: Tensor) -> tuple[Tensor, Tensor]:
    """Group tiles [K, 4] of one pattern: the index of each group's first tile, and each tile's group."""
    keys = mask.keys(grid) if grid.contiguous and len(where) else None
    if keys is None:
        own = torch.arange(len(where))
        return own, own
    b, h, r, c = where.T
    ragged = [(r == grid.shape[0] - 1).long(), (c == grid.shape[1] - 1).long()]
    code = torch.zeros(len(where), dtype=torch.int64)
    for key in ragged + [_pick(k, b, h, r, c) for k in keys]:
        key = key - key.min()
        span = int(key.max()) + 1
        if span * (int(code.max()) + 1) >= 1 << 62:
            code = torch.unique(code, return_inverse=True)[1]
        code = code * span + key
    _, group = torch.unique(code, return_inverse=True)
    first = torch.full((int(group.max()) + 1,), len(where), dtype=torch.int64)
    first.scatter_reduce_(0, group, torch.arange(len(where)), "amin")
    return first, group


def _pick(key: Tensor, b: Tensor, h: Tensor, r: Tensor, c: Tensor) -> Tensor:
    key = key.cpu()
    index = [place if size > 1 else torch.zeros_like(place) for place, size in zip((b, h, r, c), key.shape, strict=True)]
    return key[tuple(index)].long()


def _evaluate(mask: Mask, grid: Grid, where: Tensor) -> Tensor:
    """The patterns of tiles [K, 4], boolean [K, rows, cols], False outside N and M."""
    device = grid.i.device
    out = torch.zeros(len(where), grid.rows, grid.cols, dtype=torch.bool, device=device)
    step = max(1, _BUDGET // (grid.rows * grid.cols))
    for start in range(0, len(where), step):
        b, h, r, c = (x.to(device) for x in where[start : start + step].T)
        row = r[:, None] * grid.rows + torch.arange(grid.rows, device=device)
        col = c[:, None] * grid.cols + torch.arange(grid.cols, device=device)
        i, real_i = _positions_at(grid.i, b, h, row, grid.N)
        j, real_j = _positions_at(grid.j, b, h, col, grid.M)
        seen = mask.at(b[:, None, None], h[:, None, None], i[:, :, None], j[:, None, :])
        out[start : start + step] = seen & real_i[:, :, None] & real_j[:, None, :]
    return out


def _classes(mask: Mask, grid: Grid, where: Tensor) -> Tensor:
    """The status of tiles [K, 4], by evaluating them a few at a time."""
    step = max(1, _BUDGET // (grid.rows * grid.cols))
    rows = (grid.N - where[:, 2] * grid.rows).clamp(max=grid.rows)
    cols = (grid.M - where[:, 3] * grid.cols).clamp(max=grid.cols)
    seen = [_evaluate(mask, grid, part).flatten(1).sum(1).cpu() for part in where.split(step)]
    held = torch.cat(seen)
    return torch.where(held == 0, EMPTY, torch.where(held == rows * cols, FULL, PARTIAL)).to(torch.int8)


def _positions_at(values: Tensor, b: Tensor, h: Tensor, place: Tensor, length: int) -> tuple[Tensor, Tensor]:
    b = b if values.shape[0] > 1 else torch.zeros_like(b)
    h = h if values.shape[1] > 1 else torch.zeros_like(h)
    found = values[b[:, None], h[:, None], place.clamp(max=length - 1)]
    real = (place < length) & (found >= 0)
    return found.clamp(min=0), real
