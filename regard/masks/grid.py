"""The geometry a mask is classified on: where the tiles are and which positions they hold."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from regard.errors import ShapeError


@dataclass(frozen=True)
class Bounds:
    """What is certain about the visible pairs of every tile, among pairs of real (non-negative) positions.

    `may` False: none is visible. `must` True: all are. `mixed` True: some are and some are not. A tile with `may`,
    not `must` and not `mixed` is undecided. All three broadcast to [B, H, Tq, Tk].
    """

    may: Tensor
    must: Tensor
    mixed: Tensor

    @staticmethod
    def exact(any_pair: Tensor, every_pair: Tensor) -> Bounds:
        """Bounds of a leaf that knows both answers exactly."""
        return Bounds(any_pair, every_pair, any_pair & ~every_pair)

    def __and__(self, other: Bounds) -> Bounds:
        mixed = (self.mixed & other.must) | (self.must & other.mixed)
        return Bounds(self.may & other.may, self.must & other.must, mixed)

    def __or__(self, other: Bounds) -> Bounds:
        mixed = (self.mixed & ~other.may) | (~self.may & other.mixed)
        return Bounds(self.may | other.may, self.must | other.must, mixed)

    def __invert__(self) -> Bounds:
        return Bounds(~self.must, ~self.may, self.mixed)


@dataclass(frozen=True, eq=False)
class Grid:
    """Queries and keys cut into tiles.

    Shapes: `i` [B|1, H|1, N] and `j` [B|1, H|1, M] hold positions; `contiguous` says that both count up by one.
    """

    i: Tensor
    j: Tensor
    rows: int
    cols: int
    contiguous: bool

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
        i = positions(q_positions, N, M - N, "q_positions", device)
        j = positions(k_positions, M, 0, "k_positions", i.device)
        natural = q_positions is None and k_positions is None and N <= M
        return Grid(i, j, rows, cols, natural)

    @property
    def N(self) -> int:
        return self.i.shape[-1]

    @property
    def M(self) -> int:
        return self.j.shape[-1]

    @property
    def shape(self) -> tuple[int, int]:
        """Tiles down and across."""
        return -(-self.N // self.rows), -(-self.M // self.cols)

    def of_rows(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest of `values` [.., N] among the real queries of each tile row: two [.., Tq, 1]."""
        low, high = _extremes(values, self.i >= 0, self.rows)
        return low.unsqueeze(-1), high.unsqueeze(-1)

    def of_cols(self, values: Tensor) -> tuple[Tensor, Tensor]:
        """Least and greatest of `values` [.., M] among the real keys of each tile column: two [.., 1, Tk]."""
        low, high = _extremes(values, self.j >= 0, self.cols)
        return low.unsqueeze(-2), high.unsqueeze(-2)

    @cached_property
    def query(self) -> tuple[Tensor, Tensor]:
        """First and last query position of each tile row."""
        return self.of_rows(self.i)

    @cached_property
    def key(self) -> tuple[Tensor, Tensor]:
        """First and last key position of each tile column."""
        return self.of_cols(self.j)

    @cached_property
    def present(self) -> Bounds:
        """Bounds of "both positions are real"."""
        if self.contiguous:
            return self.certain
        q_any, q_all = _any_all(self.i >= 0, self.rows)
        k_any, k_all = _any_all(self.j >= 0, self.cols)
        return Bounds.exact(
            q_any.unsqueeze(-1) & k_any.unsqueeze(-2),
            q_all.unsqueeze(-1) & k_all.unsqueeze(-2),
        )

    @property
    def certain(self) -> Bounds:
        """Bounds of "every pair"."""
        yes = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.i.device)
        return Bounds(yes, yes, ~yes)

    @property
    def unknown(self) -> Bounds:
        """Bounds that claim nothing."""
        yes = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=self.i.device)
        return Bounds(yes, ~yes, ~yes)


def positions(given: Tensor | None, length: int, start: int, name: str, device: torch.device | str | None) -> Tensor:
    """Positions as [B|1, H|1, length]; counted from `start` where none are given (never below the first position).

    Raises: ShapeError where the last axis is not `length`; ValueError where the dtype is not an integer type.
    """
    if given is None:
        return torch.arange(start, start + length, device=device).view(1, 1, length)
    if given.dtype.is_floating_point or given.dtype == torch.bool:
        raise ValueError(f"{name} must be integers; got {given.dtype}.")
    if given.dim() not in (1, 2, 3) or given.shape[-1] != length:
        raise ShapeError(f"{name} must be [{length}], [B, {length}] or [B, H, {length}]; got {list(given.shape)}.")
    given = given.to(dtype=torch.int64, device=device if device is not None else given.device)
    return {1: lambda: given[None, None], 2: lambda: given[:, None], 3: lambda: given}[given.dim()]()


def _tiled(values: Tensor, size: int, fill: int | bool) -> Tensor:
    pad = -values.shape[-1] % size
    values = torch.nn.functional.pad(values, (0, pad), value=fill) if pad else values
    return values.unflatten(-1, (-1, size))


def _extremes(values: Tensor, real: Tensor, size: int) -> tuple[Tensor, Tensor]:
    info = torch.iinfo(torch.int64)
    low = _tiled(torch.where(real, values, info.max // 4), size, info.max // 4).amin(-1)
    high = _tiled(torch.where(real, values, info.min // 4), size, info.min // 4).amax(-1)
    return low, high


def _any_all(real: Tensor, size: int) -> tuple[Tensor, Tensor]:
    return _tiled(real, size, False).any(-1), _tiled(real, size, True).all(-1)
