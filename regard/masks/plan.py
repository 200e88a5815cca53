"""A mask classified tile by tile, and the patterns of its partial tiles, each stored once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from regard.errors import ShapeError
from regard.masks.bounds import Array
from regard.masks.grid import Grid
from regard.masks.patterns import evaluate, group, visible

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from regard.masks.base import Mask

EMPTY, PARTIAL, FULL = 0, 1, 2
_FEW = 4  # tiles that are evaluated sooner than grouped


@dataclass(frozen=True, eq=False)
class TilePlan:
    """Which tiles of a mask are EMPTY, PARTIAL or FULL.

    Shapes: `status` int8 [B|1, H|1, Tq, Tk], on the CPU. `size` = queries and keys per tile; the last tiles may be
    ragged. A plan is a value: don't write into its tensors.
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
    def _numbered(self) -> tuple[Tensor, Array]:
        partial = self.status.numpy() == PARTIAL
        tiles = np.argwhere(partial)
        first, groups = group(self.mask, self.grid, tiles)
        self.grid.forget()
        ids = np.full(self.status.shape, -1, dtype=np.int32)
        ids[partial] = groups
        return torch.from_numpy(ids), tiles[first]

    @property
    def pattern_ids(self) -> Tensor:
        """int32 [B|1, H|1, Tq, Tk]: which row of `patterns` a PARTIAL tile has; -1 elsewhere."""
        return self._numbered[0]

    @cached_property
    def patterns(self) -> Tensor:
        """Boolean [P, rows, cols]: the different patterns of PARTIAL tiles; False outside N and M."""
        return evaluate(self.mask, self.grid, self._numbered[1])

    def pattern(self, b: int, h: int, r: int, c: int) -> Tensor:
        """The pairs of one tile, ragged tiles clipped: boolean [<=rows, <=cols]."""
        rows, cols = self.extents
        found = evaluate(self.mask, self.grid, np.array([[b, h, r, c]]))
        return found[0, : int(rows[r]), : int(cols[c])]

    @cached_property
    def extents(self) -> tuple[Tensor, Tensor]:
        """Places in each tile row [Tq] and in each tile column [Tk]; only the last may have fewer than `size`."""
        down, across = self.grid.shape
        rows = (self.N - torch.arange(down) * self.grid.rows).clamp(max=self.grid.rows)
        cols = (self.M - torch.arange(across) * self.grid.cols).clamp(max=self.grid.cols)
        return rows, cols

    @cached_property
    def _pairs(self) -> int:
        status = self.status.numpy()
        rows, cols = (extent.numpy() for extent in self.extents)
        full = status == FULL
        held = np.count_nonzero(full, axis=-1) * self.grid.cols
        if len(cols):
            held -= full[..., -1] * (self.grid.cols - cols[-1])
        pairs = int((held * rows).sum())
        ids, tiles = self._numbered
        if len(tiles):
            times = np.bincount(ids.numpy()[ids.numpy() >= 0], minlength=len(tiles))
            pairs += int((times * visible(self.mask, self.grid, tiles)).sum())
        return pairs

    def count(self) -> float:
        """Visible pairs, averaged over the plan's batch and head axes."""
        return self._pairs / (self.status.shape[0] * self.status.shape[1])

    def density(self) -> float:
        """Share of the N x M pairs that is visible."""
        return self.count() / max(self.N * self.M, 1)

    def sparsity(self) -> float:
        """Share of tiles that is EMPTY."""
        status = self.status.numpy()
        return float(np.count_nonzero(status == EMPTY) / max(status.size, 1))

    def block_mask(
        self,
        mask_mod: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None,
        device: torch.device | str | None = None,
    ) -> BlockMask:
        """FlexAttention's block mask, made from the tiles alone: no pair is evaluated.

        `mask_mod(b, h, q_idx, kv_idx)` replaces the plan's own mask inside PARTIAL tiles.
        """
        from regard.masks.flex import block_mask

        return block_mask(self, mask_mod, torch.device(device) if device is not None else self.grid.device)


def plan(mask: Mask, grid: Grid, batch: int = 1, heads: int = 1) -> TilePlan:
    """Classify every tile of a mask on a grid, evaluating only tiles that the bounds leave undecided."""
    leads = grid.q.base.shape[:2], grid.k.base.shape[:2]
    shape = lead_axes(mask, batch, heads, *leads, wanted=False) + grid.shape
    known, present = grid.bounds(mask), grid.present
    may, full, mixed = known.may, known.must, known.mixed
    if not grid.whole:
        may, full = known.may & present.may, known.must & present.must
        mixed = (known.mixed & present.may) | (known.must & present.mixed)
    undecided = may & ~full & ~mixed
    status = may.view(np.int8) + full.view(np.int8)
    if undecided.any():
        lead = _varying(mask, grid, batch, heads, status.shape)
        shape = np.broadcast_shapes(shape, (*lead, 1, 1))
        status = np.array(np.broadcast_to(status, shape))
        tiles = np.argwhere(np.broadcast_to(undecided, shape))
        if len(tiles) > _FEW:
            first, groups = group(mask, grid, tiles)
            status[tuple(tiles.T)] = _classes(mask, grid, tiles[first])[groups]
        else:
            status[tuple(tiles.T)] = _classes(mask, grid, tiles)
    elif status.shape != shape:
        status = np.array(np.broadcast_to(status, np.broadcast_shapes(status.shape, shape)))
    grid.forget()
    return TilePlan(mask, grid, torch.from_numpy(status), batch, heads)


def cached_tiles(
    mask: Mask, N: int, M: int | None = None, size: int | tuple[int, int] = 128, *, batch: int = 1, heads: int = 1
) -> TilePlan:
    """`mask.tiles(...)` without explicit positions, remembered for masks that are equal and hold no tensors."""
    if not mask.structural:
        return mask.tiles(N, M, size, batch=batch, heads=heads)
    return _remembered(mask, N, M, size, batch, heads)


@lru_cache(maxsize=32)
def _remembered(mask: Mask, N: int, M: int | None, size: int | tuple[int, int], batch: int, heads: int) -> TilePlan:
    return mask.tiles(N, M, size, batch=batch, heads=heads)


def lead_axes(
    mask: Mask, batch: int, heads: int, q_shape: tuple[int, ...], k_shape: tuple[int, ...], *, wanted: bool
) -> tuple[int, int]:
    """Sizes of the batch and head axes of a mask on positions of two shapes; `wanted`: as many as were asked for.

    Raises: ShapeError where the mask, the positions and what was asked for differ.
    """
    if (1, 1) == mask.axes == q_shape[:2] == k_shape[:2] and (not wanted or batch == heads == 1):
        return 1, 1
    found = []
    for axis, (name, asked) in enumerate((("batch", batch), ("heads", heads))):
        sizes = {
            f"{name}={asked}": asked,
            "the mask": mask.axes[axis],
            "q_positions": q_shape[axis],
            "k_positions": k_shape[axis],
        }
        large = {who: size for who, size in sizes.items() if size > 1}
        if len(set(large.values())) > 1:
            shown = ", ".join(f"{who} has {size}" if "=" not in who else who for who, size in large.items())
            raise ShapeError(f"The {name} axes differ: {shown}. Give all the same size, or 1.")
        if not wanted:
            large.pop(f"{name}={asked}", None)
        found.append(max([1, *large.values()]))
    return found[0], found[1]


def _varying(mask: Mask, grid: Grid, batch: int, heads: int, shape: tuple[int, ...]) -> tuple[int, int]:
    """The status's leading axes, widened by those along which the mask itself varies."""
    lead = (shape[0], shape[1])
    if batch == heads == 1 == mask.axes[0] == mask.axes[1]:
        return lead
    B, H = lead_axes(mask, batch, heads, grid.q.base.shape, grid.k.base.shape, wanted=True)
    if lead == (B, H):
        return lead
    b = torch.arange(B, device=grid.device).view(-1, 1, 1, 1)
    h = torch.arange(H, device=grid.device).view(1, -1, 1, 1)
    probe = mask.at(b, h, grid.i[..., :1, None], grid.j[..., None, :1])
    return np.broadcast_shapes(lead, tuple(probe.shape[:2]))  # type: ignore[return-value]


def _classes(mask: Mask, grid: Grid, tiles: Array) -> Array:
    """The status of tiles [K, 4], by evaluating them."""
    held = visible(mask, grid, tiles)
    rows = np.minimum(grid.N - tiles[:, 2] * grid.rows, grid.rows)
    cols = np.minimum(grid.M - tiles[:, 3] * grid.cols, grid.cols)
    return np.where(held == 0, EMPTY, np.where(held == rows * cols, FULL, PARTIAL)).astype(np.int8)
