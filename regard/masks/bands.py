"""Masks that depend on the distance between query and key, or on one of them alone."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regard.masks.base import Mask
from regard.masks.grid import Bounds, Grid

FAR = 1 << 40  # farther than any distance


@dataclass(frozen=True, eq=False)
class Band(Mask):
    """Keys at a distance `least <= i // block - j // block <= most`."""

    least: int
    most: int
    block: int = 1

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        distance = i - j if self.block == 1 else i // self.block - j // self.block
        if self.most >= FAR:
            return distance >= self.least
        if self.least <= -FAR:
            return distance <= self.most
        return (distance >= self.least) & (distance <= self.most)

    def bounds(self, grid: Grid) -> Bounds:
        low, high = distances(grid, self.block)
        may = (high >= self.least) & (low <= self.most)
        must = (low >= self.least) & (high <= self.most)
        if grid.contiguous or self.most >= FAR or self.least <= -FAR:
            return Bounds.exact(may, must)
        # Both extreme distances occur in the tile; what lies between them need not.
        inside = ((low >= self.least) & (low <= self.most)) | ((high >= self.least) & (high <= self.most))
        return Bounds(may, must, inside & ~must)

    def keys(self, grid: Grid) -> list[Tensor] | None:
        return distance_keys(grid, self.block)

    def __repr__(self) -> str:
        if self.block == 1 and self.least == 0 and self.most >= FAR:
            return "causal()"
        if self.block == 1 and abs(self.least) < FAR and self.most < FAR:
            return f"window({self.most + 1}, ahead={-self.least})"
        return f"Band({self.least}, {self.most}, block={self.block})"


@dataclass(frozen=True, eq=False)
class First(Mask):
    """The keys before position `count`, for every query."""

    count: int
    name: str = "sinks"

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (j < self.count) & (i == i)

    def bounds(self, grid: Grid) -> Bounds:
        low, high = grid.key
        return Bounds.exact(low < self.count, high < self.count)

    def keys(self, grid: Grid) -> list[Tensor] | None:
        return [grid.key[0].clamp(max=self.count)]

    def __repr__(self) -> str:
        return f"{self.name}({self.count})"


def distances(grid: Grid, block: int = 1) -> tuple[Tensor, Tensor]:
    """Least and greatest distance between a query's and a key's block in each tile."""
    (i0, i1), (j0, j1) = grid.query, grid.key
    return i0 // block - j1 // block, i1 // block - j0 // block


def distance_keys(grid: Grid, block: int = 1) -> list[Tensor]:
    """What fixes the pattern of a mask on block distances: the tile's distance and its phase in the blocks."""
    i0, j0 = grid.query[0], grid.key[0]
    if block == 1:
        return [i0 - j0]
    return [i0 // block - j0 // block, i0 % block, j0 % block]


def causal() -> Mask:
    """Keys at or before the query: j <= i."""
    return Band(0, FAR)


def window(size: int, ahead: int = 0) -> Mask:
    """The last `size` keys up to and including the query's own position, and `ahead` keys after it.

    `i - size < j <= i + ahead`. Raises: ValueError where size < 1 or ahead < 0.
    """
    if size < 1:
        raise ValueError(f"window's size must be at least 1 (it counts the query's own position); got {size}.")
    if ahead < 0:
        raise ValueError(f"window's ahead must be at least 0; got {ahead}.")
    return Band(-ahead, size - 1)


def sinks(count: int) -> Mask:
    """The first `count` keys, for every query; combine with `causal()`.

    Raises: ValueError where count < 0.
    """
    if count < 0:
        raise ValueError(f"sinks' count must be at least 0; got {count}.")
    return First(count)


def prefix(length: int) -> Mask:
    """The first `length` keys, for every query: `causal() | prefix(n)` reads a prefix in both directions.

    Raises: ValueError where length < 0.
    """
    if length < 0:
        raise ValueError(f"prefix's length must be at least 0; got {length}.")
    return First(length, "prefix")
