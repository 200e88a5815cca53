"""Neighbourhoods on grids of one, two or three axes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from operator import and_

import numpy as np
from torch import Tensor

from regard.masks.base import Mask
from regard.masks.bounds import UNKNOWN, Array, Bounds
from regard.masks.boxes import Box, boxes
from regard.masks.grid import Grid
from regard.masks.line import Line
from regard.masks.patterns import Spot


@dataclass(frozen=True)
class Neighbourhood(Mask):
    """Pairs of positions, row-major in a grid, that the rule of every axis allows."""

    lines: tuple[Line, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(line.length for line in self.lines)

    def _coordinates(self, position: Tensor) -> list[Tensor]:
        found = []
        for axis, line in enumerate(self.lines):
            coordinate = position // math.prod(self.shape[axis + 1 :])
            found.append(coordinate if axis == 0 else coordinate % line.length)
        return found

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = [
            line.sees(x, y) for line, x, y in zip(self.lines, self._coordinates(i), self._coordinates(j), strict=True)
        ]
        return reduce(and_, seen)

    def bounds(self, grid: Grid) -> Bounds:
        if not math.prod(grid.shape):
            return UNKNOWN
        total = math.prod(self.shape)
        q, k = ((np.clip(axis.first, 0, total - 1), np.clip(axis.last, 0, total - 1)) for axis in (grid.q, grid.k))
        inside_q, inside_k = ((axis.first < total, axis.last < total) for axis in (grid.q, grid.k))
        q_boxes, k_boxes = boxes(*q, self.shape), boxes(*k, self.shape)
        if not q_boxes or not k_boxes:  # nothing but empty slots
            return UNKNOWN
        may, must = self._settled(q_boxes, k_boxes)
        if not (inside_q[1].all() and inside_k[1].all()):
            may = may & inside_q[0][..., None] & inside_k[0][..., None, :]
            must = must & inside_q[1][..., None] & inside_k[1][..., None, :]
        return Bounds.sound(may, must, grid.solid)

    def _settled(self, q_boxes: list[Box], k_boxes: list[Box]) -> tuple[Array, Array]:
        """Whether any and whether all pairs of each tile are allowed, from pairs of boxes."""
        lead = np.broadcast_shapes(q_boxes[0].exists.shape[:-1], k_boxes[0].exists.shape[:-1])
        shape = (*lead, q_boxes[0].exists.shape[-1], k_boxes[0].exists.shape[-1])
        may, must = np.zeros(shape, dtype=bool), np.ones(shape, dtype=bool)
        for q, rows in map(_those, q_boxes):
            for k, cols in map(_those, k_boxes):
                exists = q.exists[..., None] & k.exists[..., None, :]
                sides = list(zip(self.lines, q.ranges, k.ranges, strict=True))
                at = (
                    (..., rows, cols)
                    if isinstance(rows, slice) or isinstance(cols, slice)
                    else (..., rows[:, None], cols)
                )
                may[at] |= exists & reduce(and_, [line.some(x, y) for line, x, y in sides])
                if must.any():
                    must[at] &= ~exists | reduce(and_, [line.every(x, y) for line, x, y in sides])
        return may, must

    def signature(self, spot: Spot) -> list[Array]:
        total, grid = math.prod(self.shape), spot.grid
        ends = [
            np.clip(x, 0, total - 1)
            for x in (spot.rows(grid.q.first), spot.rows(grid.q.last), spot.cols(grid.k.first), spot.cols(grid.k.last))
        ]
        columns = [np.minimum(total - spot.q_base, grid.rows), np.minimum(total - spot.k_base, grid.cols)]
        for axis, line in enumerate(self.lines):
            below, above = math.prod(self.shape[axis + 1 :]), math.prod(self.shape[axis:])
            q0, q1, k0, k1 = (x // below % line.length for x in ends)
            wrapped = (ends[0] // above != ends[1] // above) | (ends[2] // above != ends[3] // above)
            columns += line.alike((q0, q1), (k0, k1), wrapped)
        return columns

    @property
    def structural(self) -> bool:
        return True

    def __repr__(self) -> str:
        def told(name: str) -> str:
            return str(tuple(getattr(line, name) for line in self.lines))

        return (
            f"neighbourhood({told('length')}, window={told('window')}, stride={told('stride')}, "
            f"dilation={told('dilation')}, causal={told('causal')})"
        )


def _those(box: Box) -> tuple[Box, Array | slice]:
    """A box for the tiles that have it, where those are few, and which tiles these are."""
    held = box.exists.any((0, 1))
    if 2 * np.count_nonzero(held) >= box.exists.shape[-1]:
        return box, slice(None)
    tiles = np.nonzero(held)[0]
    return Box(tuple((a[..., tiles], b[..., tiles]) for a, b in box.ranges), box.exists[..., tiles]), tiles


def neighbourhood(
    shape: int | tuple[int, ...],
    window: int | tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
    dilation: int | tuple[int, ...] = 1,
    causal: bool | tuple[bool, ...] = False,
) -> Mask:
    """The nearest `window` places on every axis of a grid whose places are numbered row by row.

    Near a border the window moves inwards, so that every query has the same number of keys. Queries of one `stride`
    group share the window of their centre; `dilation` takes every so-manieth place; a `causal` axis looks back only.
    Settings are one value for all axes, or one for each.

    Raises: ValueError where settings don't fit: 1 to 3 axes, 1 <= stride <= window, window * dilation <= length.
    Source: "Generalized Neighborhood Attention", 2504.16922, section 3.
    """
    lengths = (shape,) if isinstance(shape, int) else tuple(shape)
    if not 1 <= len(lengths) <= 3 or min(lengths) < 1:
        raise ValueError(f"neighbourhood's shape must have 1 to 3 axes of at least 1; got {lengths}.")
    windows, strides, dilations, causals = (
        _for_each(name, value, len(lengths))
        for name, value in (("window", window), ("stride", stride), ("dilation", dilation), ("causal", causal))
    )
    lines = tuple(map(Line, lengths, windows, strides, dilations, map(bool, causals)))
    for axis, line in enumerate(lines):
        _check(line, axis)
    return Neighbourhood(lines)


def _for_each(name: str, value: int | tuple[int, ...], axes: int) -> tuple[int, ...]:
    found = (value,) * axes if isinstance(value, int) else tuple(value)
    if len(found) != axes:
        raise ValueError(f"neighbourhood's {name} must be one value or {axes}, one for each axis; got {found}.")
    return found


def _check(line: Line, axis: int) -> None:
    where = f"on axis {axis}"
    for name in ("window", "stride", "dilation"):
        if getattr(line, name) < 1:
            raise ValueError(f"neighbourhood's {name} must be at least 1; got {getattr(line, name)} {where}.")
    if line.stride > line.window:
        raise ValueError(
            f"neighbourhood's stride must be at most its window; got {line.stride} > {line.window} {where}."
        )
    if line.window * line.dilation > line.length:
        raise ValueError(
            f"neighbourhood's window * dilation must be at most the length; "
            f"got {line.window} * {line.dilation} > {line.length} {where}."
        )
