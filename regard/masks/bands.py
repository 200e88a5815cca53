"""The everyday masks: causal, windows, sinks, chunks, strides."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from regard.masks.axis import FAR
from regard.masks.base import Mask
from regard.masks.bounds import Array, Bounds
from regard.masks.distance import Band, Strided
from regard.masks.grid import Grid
from regard.masks.patterns import Spot


@dataclass(frozen=True)
class First(Mask):
    """The keys before position `stop`, for every query."""

    stop: int
    name: str = field(default="sinks", compare=False)

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return torch.broadcast_tensors(j < self.stop, i)[0]

    def bounds(self, grid: Grid) -> Bounds:
        first, last = grid.k.first[..., None, :], grid.k.last[..., None, :]
        return Bounds.exact(first < self.stop, last < self.stop)

    def signature(self, spot: Spot) -> list[Array]:
        return [np.clip(spot.k_base, self.stop - spot.grid.cols, self.stop)]

    @property
    def structural(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"{self.name}({self.stop})"


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


def chunks(size: int) -> Mask:
    """Keys in the query's own chunk: i // size == j // size.

    Raises: ValueError where size < 1.
    """
    if size < 1:
        raise ValueError(f"chunks' size must be at least 1; got {size}.")
    return Band(0, 0, size)


def dilated(window: int, step: int) -> Mask:
    """`window` keys at distances 0, step, 2 * step, ... before the query.

    Raises: ValueError where window < 1 or step < 1.
    Source: "Longformer", 2004.05150, section 3.1 (dilated sliding window; this is its causal half).
    """
    if window < 1:
        raise ValueError(f"dilated's window must be at least 1 (it counts the query's own position); got {window}.")
    if step < 1:
        raise ValueError(f"dilated's step must be at least 1; got {step}.")
    return Strided(step, (window - 1) * step)


def strided(step: int) -> Mask:
    """Keys at a distance that is a multiple of `step`, before and after the query.

    Raises: ValueError where step < 1.
    """
    if step < 1:
        raise ValueError(f"strided's step must be at least 1; got {step}.")
    return Strided(step)
