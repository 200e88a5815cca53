"""A task that a mechanism solves only if it can look a fixed number of tokens back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from regard.bench.tasks import SILENT, Task
from regard.core import Source


@dataclass(frozen=True, kw_only=True)
class Copy(Task):
    """Random tokens and then the same again: every one of the second half is asked from the token before it."""

    name: ClassVar[str] = "copy"
    what: ClassVar[str] = "Random tokens, and the same once more."
    source: ClassVar[Source] = Source("none")
    metric: ClassVar[Literal["loss", "accuracy"]] = "accuracy"
    target: ClassVar[float] = 0.95
    usual: ClassVar[int] = 16

    @property
    def vocabulary(self) -> int:
        return 16

    def draw(self, generator: torch.Generator, size: int, length: int, held_out: bool) -> tuple[Tensor, Tensor]:
        half = torch.randint(16, (size, length // 2), generator=generator)
        ids = torch.cat([half, half], 1)
        targets = torch.full_like(ids, SILENT)
        targets[:, length // 2 - 1 : -1] = half
        return ids, targets
