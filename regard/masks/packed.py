"""Several documents in one sequence."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from regard.errors import ShapeError
from regard.masks.axis import FAR, Axis
from regard.masks.base import Mask
from regard.masks.bounds import Array, Bounds
from regard.masks.grid import Grid


@dataclass(frozen=True, eq=False)
class Documents(Mask):
    """Pairs whose positions belong to the same document.

    Shapes: `ids` int64 [B|1, T].
    """

    ids: Tensor

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        ids, T = self.ids.to(i.device), self.ids.shape[1]
        b = b if len(ids) > 1 else torch.zeros_like(b)
        return (ids[b, i.clamp(0, T - 1)] == ids[b, j.clamp(0, T - 1)]) & (i < T) & (j < T)

    def bounds(self, grid: Grid) -> Bounds:
        if self._ascending and grid.solid is True:
            (q0, q1, q_in), (k0, k1, k_in) = self._ends(grid.q), self._ends(grid.k)
            q0, q1, q_in = q0[..., None], q1[..., None], q_in[..., None]
            k0, k1, k_in = k0[..., None, :], k1[..., None, :], k_in[..., None, :]
            return Bounds.exact((q0 <= k1) & (k0 <= q1), (q0 == q1) & (k0 == k1) & (q0 == k0) & q_in & k_in)
        lead = np.broadcast_shapes((len(self.ids), 1), grid.q.base.shape[:2], grid.k.base.shape[:2])
        may, must = np.empty((*lead, *grid.shape), dtype=bool), np.empty((*lead, *grid.shape), dtype=bool)
        for b, h in np.ndindex(*lead):
            ids = self._ids[b % len(self._ids)]
            may[b, h], must[b, h] = _settled(grid, ids, grid.q.places(b, h), grid.k.places(b, h))
        return Bounds.exact(may, must)

    @property
    def axes(self) -> tuple[int, int]:
        return len(self.ids), 1

    @cached_property
    def _ids(self) -> Array:
        return self.ids.cpu().numpy()

    @cached_property
    def _ascending(self) -> bool:
        return bool((np.diff(self._ids) >= 0).all())

    def _ends(self, axis: Axis) -> tuple[Array, Array, Array]:
        """The documents of each tile's first and last position, and whether all positions have one."""
        T = self._ids.shape[1]
        b = np.arange(len(self._ids)).reshape(-1, 1, 1) if len(self._ids) > 1 else 0
        low = np.where(axis.first < T, self._ids[b, np.clip(axis.first, 0, T - 1)], FAR)
        high = np.where(axis.first < T, self._ids[b, np.clip(axis.last, 0, T - 1)], -FAR)
        return low, high, axis.last < T


def _settled(grid: Grid, ids: Array, i: Array, j: Array) -> tuple[Array, Array]:
    """Whether any and whether all pairs of each tile share a document, for one batch element and head."""
    kinds, numbers = np.unique(ids, return_inverse=True)
    q, k = _numbered(numbers, i), _numbered(numbers, j)
    may = np.zeros(grid.shape, dtype=bool)
    q_tiles, k_tiles = (_tiles_of(found, axis.size, len(kinds)) for found, axis in ((q, grid.q), (k, grid.k)))
    for rows, cols in zip(q_tiles, k_tiles, strict=True):
        if len(rows) and len(cols):
            may[np.ix_(rows, cols)] = True
    (q0, q1), (k0, k1) = _extremes(q, grid.q), _extremes(k, grid.k)
    one_q, one_k = np.where((q0 == q1) & (q0 >= 0), q0, -3), np.where((k0 == k1) & (k0 >= 0), k0, -4)
    return may, one_q[:, None] == one_k


def _numbered(numbers: Array, positions: Array) -> Array:
    """The document number of each place; -1 past the last document, -2 at empty slots."""
    found = np.where(positions < len(numbers), numbers[np.clip(positions, 0, len(numbers) - 1)], -1)
    return np.where(positions < 0, -2, found)


def _tiles_of(found: Array, size: int, kinds: int) -> list[Array]:
    """For each document, the tiles that hold some of it."""
    places = np.nonzero(found >= 0)[0]
    tiles = -(-len(found) // size)
    codes = np.unique(found[places] * tiles + places // size)
    edges = np.searchsorted(codes, np.arange(kinds + 1) * tiles)
    return [codes[a:b] % tiles for a, b in itertools.pairwise(edges)]


def _extremes(found: Array, axis: Axis) -> tuple[Array, Array]:
    padded = np.full(axis.tiles * axis.size, -2, dtype=np.int64)
    padded[: len(found)] = found
    padded = padded.reshape(axis.tiles, axis.size)
    real = padded > -2
    return np.where(real, padded, FAR).min(-1, initial=FAR), np.where(real, padded, -FAR).max(-1, initial=-FAR)


def documents(ids: Tensor | Sequence[int]) -> Mask:
    """Keys of the query's own document, for sequences packed from several; combine with `causal()`.

    Shapes: `ids` integers [T] or [B, T], the document of each position; positions past T belong to none.
    Raises: ValueError where ids are not integers; ShapeError where they are not [T] or [B, T].
    """
    found = ids if isinstance(ids, Tensor) else torch.tensor(ids)
    if found.dtype.is_floating_point or found.dtype.is_complex or found.dtype == torch.bool:
        raise ValueError(f"documents' ids must be integers; got {found.dtype}. Use .long().")
    if found.dim() not in (1, 2) or not found.numel():
        raise ShapeError(f"documents' ids must be [T] or [B, T]; got {list(found.shape)}.")
    return Documents(found.long() if found.dim() == 2 else found.long()[None])
