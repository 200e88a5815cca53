"""Ranges of flat row-major positions as boxes, products of a range on each axis."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from regard.masks.bounds import Array


@dataclass(frozen=True, eq=False, slots=True)
class Box:
    """One box for each tile: `ranges[axis]` = (first, last) coordinates, meaningful where `exists`."""

    ranges: tuple[tuple[Array, Array], ...]
    exists: Array


def boxes(first: Array, last: Array, shape: tuple[int, ...]) -> list[Box]:
    """Boxes whose disjoint union is the positions first..last, for arrays of ranges; at most 2r - 1 exist for each."""
    return [box for box in _boxes(first, last, np.ones_like(first, dtype=bool), shape) if box.exists.any()]


def _boxes(first: Array, last: Array, exists: Array, shape: tuple[int, ...]) -> list[Box]:
    if len(shape) == 1 or not exists.any():
        return [Box(((first, last),) * len(shape), exists)]
    line = math.prod(shape[1:])
    (a, from_a), (b, to_b) = np.divmod(first, line), np.divmod(last, line)
    one, cut_a, cut_b = a == b, from_a > 0, to_b < line - 1
    whole = tuple((np.zeros_like(a), np.full_like(a, n - 1)) for n in shape[1:])
    start, stop = a + cut_a, b - cut_b
    middle = (np.minimum(start, shape[0] - 1), np.maximum(stop, 0))  # kept in range where there is none
    found = [Box((middle, *whole), exists & (start <= stop))]
    # The line where the range begins, if it is cut there (or within it), and the line where it ends.
    for at, low, high, some in (
        (a, from_a, np.where(one, to_b, line - 1), cut_a | (one & cut_b)),
        (b, np.zeros_like(to_b), to_b, cut_b & ~one),
    ):
        found += [Box(((at, at), *box.ranges), box.exists) for box in _boxes(low, high, exists & some, shape[1:])]
    return found
