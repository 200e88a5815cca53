"""What a training benchmark trains and how long."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from regard.errors import RegardError

MOST_STEPS = 2**20  # the data of a step is drawn from its seed and number, and neither may run into the other
HELD_OUT = 2**62  # test data is drawn from numbers that no step has


@dataclass(frozen=True, kw_only=True)
class Settings:
    """One backbone and one schedule for every mechanism: AdamW, linear warm-up, cosine to a tenth, clipped gradients.

    `tests` sequences are answered at the end, and half as many every `every` steps on the way.

    Raises: RegardError where one is out of range.
    """

    seeds: int = 3
    steps: int = 400
    length: int = 32
    batch: int = 32
    dim: int = 64
    heads: int = 4
    layers: int = 2
    rate: float = 2e-3
    decay: float = 0.01
    clip: float = 1.0
    warm: float = 0.05
    every: int = 25
    tests: int = 256

    def __post_init__(self) -> None:
        for name in ("seeds", "steps", "length", "batch", "dim", "heads", "layers", "every"):
            if getattr(self, name) < 1:
                raise RegardError(f"--{name} must be at least 1; got {getattr(self, name)}.")
        if self.steps >= MOST_STEPS:
            raise RegardError(f"--steps must be below {MOST_STEPS}; got {self.steps}.")
        if self.tests < 2:
            raise RegardError(f"--tests must be at least 2; got {self.tests}.")
        if not 0 < self.rate < math.inf:
            raise RegardError(f"--rate must be above 0; got {self.rate}.")
        if self.dim % self.heads:
            raise RegardError(f"--dim {self.dim} is not a multiple of --heads {self.heads}; type --heads 1 or another.")

    def rate_at(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        warm = max(1, round(self.warm * self.steps))
        if step < warm:
            return self.rate * (step + 1) / warm
        part = (step - warm) / max(1, self.steps - warm)
        return self.rate * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * part)))

    @property
    def plain(self) -> dict[str, object]:
        """The settings as they are written to JSON."""
        return asdict(self)


def lengths(length: int) -> list[int]:
    """The lengths that a trained model is tested at: from a quarter of the trained one to eight times it."""
    return [length // 4, length // 2, length, 2 * length, 4 * length, 8 * length]


def data_seed(seed: int, step: int) -> int:
    """What the data of one step is drawn from: the same for every mechanism."""
    return seed * MOST_STEPS + step
