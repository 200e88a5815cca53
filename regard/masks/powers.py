"""PowerAttention's mask: a window, the sinks and the distances that are powers of two."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from regard.masks.bands import First, causal
from regard.masks.base import Mask
from regard.masks.bounds import Array, Bounds
from regard.masks.distance import Distances
from regard.masks.grid import Grid
from regard.masks.patterns import Spot


@dataclass(frozen=True)
class Powers(Distances):
    """Keys fewer than `window` blocks back, or a power of two of blocks back."""

    window: int
    block: int = 1

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        distance = i - j if self.block == 1 else i // self.block - j // self.block
        return self.member(distance)  # type: ignore[arg-type, return-value]

    def member(self, distance: Array) -> Array:
        return (distance >= 0) & ((distance < self.window) | ((distance & (distance - 1)) == 0))

    def some(self, least: Array, greatest: Array) -> Array:
        return self._held(greatest) > self._held(least - 1)

    def every(self, least: Array, greatest: Array) -> Array:
        return self._held(greatest) - self._held(least - 1) == greatest - least + 1

    def _held(self, distance: Array) -> Array:
        """How many of 0..distance are in the set."""
        low, high = int(distance.min(initial=0)), int(distance.max(initial=0))
        if high - low < distance.size // 4:
            return self._held(np.arange(low, high + 1))[distance - low]
        near = np.clip(distance, -1, self.window - 1)
        return near + 1 + _powers_to(distance) - _powers_to(near)

    @property
    def unit(self) -> int:
        return self.block

    def __repr__(self) -> str:
        return f"Powers(window={self.window}, block={self.block})"


def _powers_to(distance: Array) -> Array:
    """How many powers of two are at most this: the bits of a whole number below 2^53."""
    return np.frexp(np.maximum(distance, 0).astype(np.float64))[1].astype(np.int64)


@dataclass(frozen=True)
class Power(Mask):
    """Earlier keys fewer than `window` blocks back, in the first `sinks` blocks, or a power of two of blocks back."""

    block: int
    window: int
    sinks: int
    rule: Mask = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        near = Powers(self.window, self.block)
        object.__setattr__(self, "rule", causal() & (near | First(self.sinks * self.block) if self.sinks else near))

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return self.rule.at(b, h, i, j)

    def bounds(self, grid: Grid) -> Bounds:
        return grid.bounds(self.rule)

    def signature(self, spot: Spot) -> list[Array]:
        return self.rule.signature(spot)

    @property
    def parts(self) -> tuple[Mask, ...]:
        return (self.rule,)

    def __repr__(self) -> str:
        return f"power(block={self.block}, window={self.window}, sinks={self.sinks})"


def power(block: int = 1, window: int = 1, sinks: int = 0) -> Mask:
    """A window, the sinks and every power of two of blocks back, so that log2(N) layers reach every earlier token.

    With I = i // block, J = j // block and delta = I - J, a query sees a key where j <= i and (delta < window or
    J < sinks or delta is a power of two). The paper uses block=256, window=5, sinks=1.

    Raises: ValueError where block < 1, window < 1 or sinks < 0.
    Source: "PowerAttention", 2503.03588, section 3.
    """
    for name, value, least in (("block", block, 1), ("window", window, 1), ("sinks", sinks, 0)):
        if value < least:
            raise ValueError(f"power's {name} must be at least {least}; got {value}.")
    return Power(block, window, sinks)
