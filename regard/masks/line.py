"""The rule of a neighbourhood along one axis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from regard.masks.bounds import Array


@dataclass(frozen=True)
class Line:
    """The rule along one axis: which coordinates a coordinate sees, `least`..`greatest` in steps of `dilation`."""

    length: int
    window: int
    stride: int
    dilation: int
    causal: bool

    def interval(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The least and greatest coordinate seen by x."""
        group, p = x % self.dilation, x // self.dilation
        held = torch.where(group < self.length % self.dilation, 1, 0) + self.length // self.dilation
        start = p // self.stride * self.stride
        if self.causal:
            leader = torch.minimum(start + self.stride - 1, held - 1)
            low, high = (leader - self.window + 1).clamp(min=0), p
        else:
            left, right = self.window // 2, (self.window - 1) // 2
            leader = torch.minimum(start + self.stride // 2, held - 1)
            centre = torch.minimum(leader, held - 1 - right).clamp(min=left)
            low, high = centre - left, centre + right
        return low * self.dilation + group, high * self.dilation + group

    def sees(self, x: Tensor, y: Tensor) -> Tensor:
        """Whether x sees y; coordinates past the end see nothing and are not seen."""
        low, high = self.interval(x)
        high = torch.where(x < self.length, high, -1)
        seen = (y >= low) & (y <= high)
        return seen if self.dilation == 1 else seen & (y % self.dilation == x % self.dilation)

    @cached_property
    def table(self) -> tuple[Array, Array]:
        """`interval` of every coordinate."""
        low, high = self.interval(torch.arange(self.length))
        small = np.min_scalar_type(-4 * self.length)  # comparing narrow integers takes a fraction of the time
        return low.numpy().astype(small), high.numpy().astype(small)

    def some(self, q: tuple[Array, Array], k: tuple[Array, Array]) -> Array:
        """Whether any coordinate of range q sees any of range k."""
        # Within a class of coordinates modulo the dilation, intervals rise with x and those of neighbours touch.
        (a, b), (c, d), step = q, k, self.dilation
        low, high = self.table
        if step == 1:
            c, d = c.astype(low.dtype), d.astype(low.dtype)
            return (low[a][..., None] <= d[..., None, :]) & (high[b][..., None] >= c[..., None, :])
        classes = np.arange(step).reshape(-1, 1, 1, 1)
        x0, x1 = a + (classes - a) % step, b - (b - classes) % step
        y0, y1 = c + (classes - c) % step, d - (d - classes) % step
        far = 2 * self.length
        least = np.where(x0 <= b, low[np.minimum(x0, self.length - 1)], far).astype(low.dtype)
        greatest = np.where(x0 <= b, high[np.maximum(x1, 0)], -1 - far).astype(low.dtype)
        y0, y1 = np.where(y0 <= d, y0, far).astype(low.dtype), np.where(y0 <= d, y1, -1 - far).astype(low.dtype)
        return _any_class(least, greatest, y0, y1)

    def every(self, q: tuple[Array, Array], k: tuple[Array, Array]) -> Array:
        """Whether all coordinates of range q see all of range k."""
        (a, b), (c, d) = q, k
        low, high = self.table
        c, d = c.astype(low.dtype), d.astype(low.dtype)
        seen = (low[b][..., None] <= c[..., None, :]) & (high[a][..., None] >= d[..., None, :])
        if self.dilation == 1:
            return seen
        same = (a % self.dilation)[..., None] == (c % self.dilation)[..., None, :]
        return seen & same & (a == b)[..., None] & (c == d)[..., None, :]

    def alike(self, q: tuple[Array, Array], k: tuple[Array, Array], wrapped: Array) -> list[Array]:
        """Numbers that fix which places of range q see which of range k; `wrapped` ranges start over inside a tile."""
        (a, b), (c, d), step = q, k, self.dilation
        low, high = self.table
        # One coordinate: its interval, cut to the keys. A range away from the borders: its place in the stride.
        least = np.maximum(low[a], c + (a - c) % step)
        greatest = np.minimum(high[a], d - (d - a) % step)
        none = least > greatest
        single = [np.where(none, -1, least - c), np.where(none, -1, greatest - c)]
        margin = (self.window + self.stride) * step
        inner = (a >= margin) & (b < self.length - margin)
        ranged = [np.where(inner, a % (self.stride * step), self.stride * step + a), np.where(inner, a - c, c)]
        literal = [a, c]
        kind = np.where(wrapped, 2, np.where(a == b, 0, np.where(inner, 1, 3)))
        columns = [
            np.select([kind == 0, kind == 2], [s, w], r) for s, w, r in zip(single, literal, ranged, strict=True)
        ]
        return [kind, *columns, b - a, d - c]


def _any_class(least: Array, greatest: Array, y0: Array, y1: Array) -> Array:
    """Whether intervals least..greatest [S, .., Tq] and y0..y1 [S, .., Tk] meet in any of S classes."""
    hull = (least.min(0)[..., None] <= y1.max(0)[..., None, :]) & (
        greatest.max(0)[..., None] >= y0.min(0)[..., None, :]
    )
    if np.count_nonzero(hull) * 8 > hull.size:
        met = [
            (least[s][..., None] <= y1[s][..., None, :]) & (greatest[s][..., None] >= y0[s][..., None, :])
            for s in range(len(least))
        ]
        return np.logical_or.reduce(met)
    b, h, r, c = np.nonzero(hull)

    def listed(values: Array, tile: Array) -> Array:
        return values[b if values.shape[0] > 1 else 0, h if values.shape[1] > 1 else 0, tile]

    met = np.zeros(len(r), dtype=bool)
    for s in range(len(least)):
        met |= (listed(least[s], r) <= listed(y1[s], c)) & (listed(greatest[s], r) >= listed(y0[s], c))
    hull[b, h, r, c] = met
    return hull
