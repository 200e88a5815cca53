"""The geometry a mask is classified on: where the tiles are and which positions they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

from regard.errors import ShapeError
from regard.masks.axis import Axis
from regard.masks.bounds import EVERY_PAIR, Array, Bounds

if TYPE_CHECKING:
    from regard.masks.base import Mask

_FEW = 4096  # tiles below which looking for diagonals costs more than it saves


@dataclass(frozen=True, eq=False)
class Grid:
    """Queries and keys cut into tiles of `rows` x `cols`; explicit positions are kept as given."""

    q: Axis
    k: Axis
    q_start: int
    q_given: Tensor | None
    k_given: Tensor | None
    device: torch.device
    _known: dict[Mask, Bounds] = field(default_factory=dict)

    @staticmethod
    def of(
        N: int,
        M: int,
        size: int | tuple[int, int],
        q_positions: Tensor | None = None,
        k_positions: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> Grid:
        """Cut N queries and M keys into tiles; without positions the queries are the last N of M."""
        rows, cols = (size, size) if isinstance(size, int) else size
        if rows < 1 or cols < 1:
            raise ValueError(f"A tile's size must be at least 1; got {(rows, cols)}.")
        if N < 0 or M < 0:
            raise ValueError(f"N and M must be at least 0; got {N} and {M}.")
        given = next((t for t in (q_positions, k_positions) if t is not None), None)
        place = torch.device(device or (given.device if given is not None else "cpu"))
        q, q_given = _axis(q_positions, N, M - N, rows, "q_positions", place)
        k, k_given = _axis(k_positions, M, 0, cols, "k_positions", place)
        return Grid(q, k, M - N, q_given, k_given, place)

    @property
    def N(self) -> int:
        return self.q.length

    @property
    def M(self) -> int:
        return self.k.length

    @property
    def rows(self) -> int:
        return self.q.size

    @property
    def cols(self) -> int:
        return self.k.size

    @property
    def shape(self) -> tuple[int, int]:
        """Tiles down and across."""
        return self.q.tiles, self.k.tiles

    @property
    def whole(self) -> bool:
        """Whether all positions are real and count up by one inside every tile."""
        return self.q.whole and self.k.whole

    @cached_property
    def i(self) -> Tensor:
        """Query positions [B|1, H|1, N]."""
        return positions(self.q_given, self.N, self.q_start, "q_positions", self.device)

    @cached_property
    def j(self) -> Tensor:
        """Key positions [B|1, H|1, M]."""
        return positions(self.k_given, self.M, 0, "k_positions", self.device)

    @cached_property
    def solid(self) -> Array | bool:
        """Tiles in which interval reasoning is exact: [B|1, H|1, Tq, Tk], or True for all."""
        if self.q.all_solid and self.k.all_solid:
            return True
        return self.q.solid[..., None] & self.k.solid[..., None, :]

    @cached_property
    def present(self) -> Bounds:
        """Bounds of "both positions are real"."""
        if self.whole:
            return EVERY_PAIR
        some = self.q.some[..., None] & self.k.some[..., None, :]
        return Bounds.exact(some, self.q.every[..., None] & self.k.every[..., None, :])

    def bounds(self, mask: Mask) -> Bounds:
        """A mask's bounds, kept until `forget()`."""
        if mask not in self._known:
            self._known[mask] = mask.bounds(self)
        return self._known[mask]

    def forget(self) -> None:
        """Drop the kept bounds."""
        self._known.clear()

    def by_distance(self, decide: Callable[[Array, Array], tuple[Array, Array]], block: int = 1) -> tuple[Array, Array]:
        """`decide(least, greatest)` on the distance from key to query, in blocks, of every tile.

        Distances repeat along diagonals where tiles are square and positions consecutive; then it is asked once for
        each diagonal.
        """
        (q0, q1), (k0, k1) = (
            (axis.first, axis.last) if block == 1 else (axis.first // block, axis.last // block)
            for axis in (self.q, self.k)
        )
        step = self._step(q0, q1, k0, k1)
        if step is None:
            if self.whole and self.N + self.M > _FEW and max(q1.max(), k1.max()) < 1 << 30:
                q0, q1, k0, k1 = (edge.astype(np.int32) for edge in (q0, q1, k0, k1))
            return decide(q0[..., None] - k1[..., None, :], q1[..., None] - k0[..., None, :])
        down, across = self.shape
        apart = step * np.arange(down - 1, -across, -1)
        found = decide(apart + (q0.flat[0] - k1.flat[0]), apart + (q1.flat[0] - k0.flat[0]))
        tiles = tuple(as_strided(f[down - 1 :], (1, 1, down, across), (0, 0, -1, 1), writeable=False) for f in found)
        edges = (q0, q1, down, k0, k1, across)
        return self._mended(tiles, edges, step, decide)  # type: ignore[return-value]

    def _step(self, *edges: Array) -> int | None:
        """Positions from one tile to the next, where the same for all tiles but the last of each axis."""
        down, across = self.shape
        if self.solid is not True or down * across < _FEW or min(down, across) < 4:
            return None
        if any(edge.shape[:2] != (1, 1) for edge in edges):
            return None
        step = int(edges[0][0, 0, 1] - edges[0][0, 0, 0])
        regular = all((np.diff(edge[0, 0, :-1]) == step).all() for edge in edges)
        return step if regular else None

    def _mended(
        self,
        tiles: tuple[Array, ...],
        edges: tuple[Array, Array, int, Array, Array, int],
        step: int,
        decide: Callable[[Array, Array], tuple[Array, Array]],
    ) -> tuple[Array, ...]:
        """Decide the ragged last row and column of tiles on their own."""
        q0, q1, down, k0, k1, across = edges
        row_ends = any(edge.flat[-1] != edge.flat[0] + step * (down - 1) for edge in (q0, q1))
        col_ends = any(edge.flat[-1] != edge.flat[0] + step * (across - 1) for edge in (k0, k1))
        if not (row_ends or col_ends):
            return tiles
        tiles = tuple(tile.copy() for tile in tiles)
        if row_ends:
            for tile, found in zip(tiles, decide(q0[0, 0, -1] - k1, q1[0, 0, -1] - k0), strict=True):
                tile[:, :, -1] = found
        if col_ends:
            for tile, found in zip(tiles, decide(q0 - k1[0, 0, -1], q1 - k0[0, 0, -1]), strict=True):
                tile[..., -1] = found
        return tiles


def _axis(
    given: Tensor | None, length: int, start: int, size: int, name: str, device: torch.device
) -> tuple[Axis, Tensor | None]:
    if given is None:
        return Axis.consecutive(start, length, size), None
    given = positions(given, length, start, name, device)
    found = given.detach().cpu().numpy()
    for axis in (0, 1):
        if found.shape[axis] > 1 and (found == found.take([0], axis)).all():
            found, given = found.take([0], axis), given.narrow(axis, 0, 1)
    return Axis.explicit(found, size), given


def positions(given: Tensor | None, length: int, start: int, name: str, device: torch.device | str | None) -> Tensor:
    """Positions as [B|1, H|1, length]; counted from `start` where none are given.

    Raises: ShapeError where the last axis is not `length`; ValueError where the dtype is not an integer type.
    """
    if given is None:
        return torch.arange(start, start + length, device=device).view(1, 1, length)
    if given.dtype.is_floating_point or given.dtype.is_complex or given.dtype == torch.bool:
        raise ValueError(f"{name} must be integers; got {given.dtype}. Use .long().")
    if given.dim() not in (1, 2, 3) or given.shape[-1] != length:
        raise ShapeError(f"{name} must be [{length}], [B, {length}] or [B, H, {length}]; got {list(given.shape)}.")
    given = given.to(dtype=torch.int64, device=device if device is not None else given.device)
    return given[(None, None) if given.dim() == 1 else (slice(None), None) if given.dim() == 2 else ()]
