"""Queries or keys cut into tiles, and the positions each tile holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from regard.masks.bounds import Array

FAR = 1 << 40  # farther than any position


@dataclass(frozen=True, eq=False, slots=True)
class Axis:
    """One side of a grid.

    Shapes: arrays are [B|1, H|1, T] for T tiles of `size` places (the last may be ragged).
    `first` and `last` are the least and greatest real position; `some` and `every` say whether any and all places are
    real (not negative). In a `solid` tile the real positions are `base` + place, without holes. `whole`: all tiles are
    solid and all places real. `positions` are those given, None where they count up from `start`.
    """

    length: int
    size: int
    start: int
    positions: Array | None
    base: Array
    first: Array
    last: Array
    some: Array
    every: Array
    solid: Array
    whole: bool
    all_solid: bool

    @property
    def tiles(self) -> int:
        return self.base.shape[-1]

    @staticmethod
    def consecutive(start: int, length: int, size: int) -> Axis:
        """Positions start, start + 1, ...; those below 0 are empty slots."""
        base = np.arange(start, start + length, size).reshape(1, 1, -1)
        last = base + (size - 1)
        if length:
            last[..., -1] = start + length - 1
        yes = np.ones_like(base, dtype=bool)
        if start >= 0:
            return Axis(length, size, start, None, base, base, last, yes, yes, yes, True, True)
        some = last >= 0
        first = np.where(some, np.maximum(base, 0), FAR)
        last = np.where(some, last, -FAR)
        return Axis(length, size, start, None, base, first, last, some, base >= 0, yes, False, True)

    @staticmethod
    def explicit(positions: Array, size: int) -> Axis:
        """Given positions [B|1, H|1, L]."""
        length = positions.shape[-1]
        if positions.shape[:2] == (1, 1) and length and positions[0, 0, 0] >= 0 and (np.diff(positions) == 1).all():
            return Axis.consecutive(int(positions[0, 0, 0]), length, size)
        tiles = -(-length // size)
        places = np.full((*positions.shape[:2], tiles * size), -1, dtype=np.int64)
        places[..., :length] = positions
        places = places.reshape(*positions.shape[:2], tiles, size)
        real = places >= 0
        held = real.sum(-1)
        some = held > 0
        extent = np.minimum(size, length - size * np.arange(tiles))
        first = np.where(real, places, FAR).min(-1, initial=FAR)
        last = np.where(real, places, -FAR).max(-1, initial=-FAR)
        # Real places of a solid tile lie on one line, position - place, and there are as many as the line has between.
        line = places - np.arange(size)
        base = np.where(real, line, FAR).min(-1, initial=FAR)
        straight = base == np.where(real, line, -FAR).max(-1, initial=-FAR)
        solid = ~some | (straight & (last - first + 1 == held))
        base = np.where(some, base, 0)
        every = held == extent
        whole = bool(solid.all())
        return Axis(
            length, size, 0, positions, base, first, last, some, every, solid, whole and bool(every.all()), whole
        )

    def places(self, b: int, h: int) -> Array:
        """All positions of one batch element and head: [L]."""
        if self.positions is None:
            return np.arange(self.start, self.start + self.length)
        B, H, _ = self.positions.shape
        return self.positions[b if B > 1 else 0, h if H > 1 else 0]

    def held(self, b: Array, h: Array, tile: Array) -> tuple[Array, Array | None]:
        """Positions of tiles [K] place by place, cut to the length, and which are real (None: all): two [K, places]."""
        place = tile[:, None] * self.size + np.arange(min(self.size, self.length))
        ragged = self.length % self.size and self.length > self.size
        if self.positions is None:
            found = place + self.start
        else:
            B, H, _ = self.positions.shape
            lead = (b[:, None] if B > 1 else 0, h[:, None] if H > 1 else 0)
            found = self.positions[(*lead, np.minimum(place, self.length - 1) if ragged else place)]
        if self.whole:
            return found, place < self.length if ragged else None
        return np.maximum(found, 0), (found >= 0) & (place < self.length)
