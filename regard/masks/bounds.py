"""Three-valued answers about tiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True, eq=False, slots=True)
class Bounds:
    """What is certain about the visible pairs of every tile, among pairs of real (non-negative) positions.

    `may` False: none is visible. `must` True: all are. `mixed` True: some are and some are not. A tile with `may`,
    not `must` and not `mixed` is undecided. What is said about a tile without real pairs has no meaning.

    Shapes: booleans that broadcast to [B, H, Tq, Tk].
    """

    may: Array
    must: Array
    mixed: Array

    @staticmethod
    def exact(any_pair: Array, every_pair: Array) -> Bounds:
        """Bounds of a leaf that knows both answers exactly."""
        return Bounds(any_pair, every_pair, any_pair & ~every_pair)

    @staticmethod
    def sound(any_pair: Array, every_pair: Array, certain: Array | bool) -> Bounds:
        """Bounds of a leaf whose answers are exact in the `certain` tiles, and elsewhere err towards undecided."""
        return Bounds(any_pair, every_pair, any_pair & ~every_pair & certain)

    def __and__(self, other: Bounds) -> Bounds:
        mixed = (self.mixed & other.must) | (self.must & other.mixed)
        return Bounds(self.may & other.may, self.must & other.must, mixed)

    def __or__(self, other: Bounds) -> Bounds:
        mixed = (self.mixed & ~other.may) | (~self.may & other.mixed)
        return Bounds(self.may | other.may, self.must | other.must, mixed)

    def __invert__(self) -> Bounds:
        return Bounds(~self.must, ~self.may, self.mixed)


YES = np.ones((1, 1, 1, 1), dtype=bool)
NO = np.zeros((1, 1, 1, 1), dtype=bool)
for _constant in (YES, NO):
    _constant.setflags(write=False)
EVERY_PAIR = Bounds(YES, YES, NO)
UNKNOWN = Bounds(YES, NO, NO)
