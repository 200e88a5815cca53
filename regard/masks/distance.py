"""Masks that depend on the distance between query and key alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from regard.masks.axis import FAR
from regard.masks.base import Mask
from regard.masks.bounds import Array, Bounds
from regard.masks.grid import Grid
from regard.masks.patterns import Spot


@dataclass(frozen=True)
class Distances(Mask):
    """Pairs whose distance, i // block - j // block, is in a set of whole numbers.

    A leaf says what is in the set, and whether any and whether all of least..greatest are.
    """

    def member(self, distance: Array) -> Array:
        """Which of these distances are in the set."""
        raise NotImplementedError

    def some(self, least: Array, greatest: Array) -> Array:
        """Whether any of least..greatest is in the set."""
        raise NotImplementedError

    def every(self, least: Array, greatest: Array) -> Array:
        """Whether all of least..greatest are in the set."""
        raise NotImplementedError

    def phase(self, distance: Array) -> Array:
        """A number that fixes which distances around this one are in the set."""
        return distance

    @property
    def unit(self) -> int:
        """Positions to a block."""
        return 1

    def bounds(self, grid: Grid) -> Bounds:
        if grid.solid is True:
            return Bounds.exact(
                *grid.by_distance(lambda low, high: (self.some(low, high), self.every(low, high)), self.unit)
            )
        # Both extreme distances occur in the tile; in a tile with holes, what lies between them need not.
        may, must = grid.by_distance(lambda low, high: (self.some(low, high), self.every(low, high)), self.unit)
        ends = grid.by_distance(lambda low, high: (self.member(low), self.member(high)), self.unit)
        return Bounds.sound(may, must, grid.solid | (ends[0] != ends[1]))

    def signature(self, spot: Spot) -> list[Array]:
        q, k, unit = spot.q_base, spot.k_base, self.unit
        q1, k1 = q + spot.grid.rows - 1, k + spot.grid.cols - 1
        if unit == 1:
            apart, least, greatest = q - k, q - k1, q1 - k
        else:
            apart, least, greatest = q // unit - k // unit, q // unit - k1 // unit, q1 // unit - k // unit
        some, every = self.some(least, greatest), self.every(least, greatest)
        open_ = some & ~every
        column = np.where(open_, self.phase(apart), 0)
        return [some.astype(np.int8) + every, column] + [np.where(open_, x % unit, 0) for x in (q, k) if unit > 1]

    @property
    def structural(self) -> bool:
        return True


@dataclass(frozen=True)
class Band(Distances):
    """Keys at a distance `least <= i // block - j // block <= most`."""

    least: int
    most: int
    block: int = 1

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if self.block > 1:
            i, j = i // self.block, j // self.block
        # Bounds move to the side of the queries, so that no integer is written for a pair.
        if self.least == self.most:
            return j == i - self.least
        seen = None if self.least <= -FAR else j <= i - self.least
        if self.most >= FAR:
            return j == j if seen is None else seen
        near = j >= i - self.most
        return near if seen is None else seen & near

    def member(self, distance: Array) -> Array:
        return (distance >= self.least) & (distance <= self.most)

    def some(self, least: Array, greatest: Array) -> Array:
        return (greatest >= self.least) & (least <= self.most)

    def every(self, least: Array, greatest: Array) -> Array:
        return (least >= self.least) & (greatest <= self.most)

    @property
    def unit(self) -> int:
        return self.block

    def __repr__(self) -> str:
        if self.block > 1 and self.least == self.most == 0:
            return f"chunks({self.block})"
        if self.block > 1 or self.least > 0 or self.least <= -FAR or (self.least < 0 and self.most >= FAR):
            return f"Band({self.least}, {self.most}, block={self.block})"
        if self.most >= FAR:
            return "causal()"
        return f"window({self.most + 1}, ahead={-self.least})" if self.least else f"window({self.most + 1})"


@dataclass(frozen=True)
class Strided(Distances):
    """Keys at a distance that is a multiple of `step`, and from 0 to `most` where that is given."""

    step: int
    most: int | None = None

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = j % self.step == i % self.step
        return seen if self.most is None else seen & (j <= i) & (j >= i - self.most)

    def member(self, distance: Array) -> Array:
        found = distance % self.step == 0
        return found if self.most is None else found & (distance >= 0) & (distance <= self.most)

    def some(self, least: Array, greatest: Array) -> Array:
        if self.most is not None:
            least, greatest = np.maximum(least, 0), np.minimum(greatest, self.most)
        return greatest // self.step * self.step >= least

    def every(self, least: Array, greatest: Array) -> Array:
        if self.step == 1:
            return (least >= 0) & (greatest <= self.most) if self.most is not None else least <= greatest
        return (least == greatest) & self.member(least)

    def phase(self, distance: Array) -> Array:
        return distance % self.step if self.most is None else distance

    def __repr__(self) -> str:
        if self.most is None:
            return f"strided({self.step})"
        return f"dilated({self.most // self.step + 1}, {self.step})"
