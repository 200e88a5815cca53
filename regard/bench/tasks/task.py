"""What every training task promises: sequences, what is asked in them, and how an answer is counted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import ClassVar, Literal, final

import torch
from torch import Tensor

from regard.core import Source
from regard.errors import RegardError

SILENT = -100  # the target where nothing is asked


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A task that makes its own data. A subclass sets what is a class variable here and defines `draw`.

    `metric` is "accuracy", the share of the asked tokens that are answered right, or "loss", the mean in nats;
    `target` is the metric at which the task counts as solved; `usual` is the training length in tokens.
    """

    name: ClassVar[str]
    what: ClassVar[str]
    source: ClassVar[Source]
    metric: ClassVar[Literal["loss", "accuracy"]]
    target: ClassVar[float]
    usual: ClassVar[int]

    @property
    @abstractmethod
    def vocabulary(self) -> int:
        """How many different tokens there are."""

    @property
    def least(self) -> int:
        """The shortest sequence that the task can be set in."""
        return 2

    @abstractmethod
    def draw(self, generator: torch.Generator, size: int, length: int, held_out: bool) -> tuple[Tensor, Tensor]:
        """What `batch` gives, for a length that fits."""

    @final
    def batch(
        self, generator: torch.Generator, size: int, length: int, *, held_out: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Sequences and their targets, both [size, length]; SILENT where nothing is asked.

        The target at a place is the token that should follow it. `held_out` draws from what training never sees.

        Raises: RegardError where the length does not fit.
        """
        self.fit(length)
        return self.draw(generator, size, length, held_out)

    def fit(self, length: int) -> None:
        """Raise RegardError where a sequence of this length can't be set."""
        if length < self.least:
            raise RegardError(f"{self.label} needs at least {self.least} tokens; got --length {length}.")

    def shifted(self) -> dict[str, Task]:
        """Other distributions of the same task, on which a trained model is tested besides, by name."""
        return {}

    @property
    def settings(self) -> dict[str, object]:
        """The task's own settings by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def label(self) -> str:
        """The task as it is typed, with the settings that are not the defaults."""
        told = [f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) != f.default]
        return f"{self.name}:{','.join(told)}" if told else self.name

    def better(self, a: float, b: float) -> bool:
        """Whether the metric `a` is better than `b`."""
        return a > b if self.metric == "accuracy" else a < b

    def solved(self, value: float) -> bool:
        """Whether the metric has reached the target."""
        return value == self.target or self.better(value, self.target)

    def _at_least(self, **least: float) -> None:
        for name, bound in least.items():
            if not getattr(self, name) >= bound:
                raise RegardError(f"{self.name}.{name} must be at least {bound}; got {getattr(self, name)}.")
