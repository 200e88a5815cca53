"""Counting: a variable is set to zero and incremented among steps that do nothing, and its value is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from regard.bench.tasks.task import SILENT, Task
from regard.core import Source

SET, INCREMENT, PASS, PRINT = range(4)


@dataclass(frozen=True, kw_only=True)
class Counting(Task):
    """Instructions set a variable to zero, increment it, pass, or print it; at a print its value is asked.

    The first instruction sets and the last prints; the others are drawn by weight: set 1, increment 7, print 4, and
    pass `passes`. An increment past `most` is a pass. Answers do not stand in the text.

    Source: "Contextual Position Encoding", 2405.18719, section 5.2, with one variable. There only the end prints.
    """

    name: ClassVar[str] = "counting"
    what: ClassVar[str] = "A variable is set to zero, incremented or let be; a print must tell its value."
    source: ClassVar[Source] = Source(
        "Contextual Position Encoding: Learning to Count What's Important", "2405.18719", "section 5.2"
    )
    metric: ClassVar[Literal["loss", "accuracy"]] = "accuracy"
    target: ClassVar[float] = 0.99
    usual: ClassVar[int] = 64

    passes: float = 50.0
    most: int = 10

    def __post_init__(self) -> None:
        self._at_least(passes=0, most=1)

    @property
    def vocabulary(self) -> int:
        return 4 + self.most + 1

    def shifted(self) -> dict[str, Task]:
        return {"more passes": Counting(passes=4 * self.passes, most=self.most)}

    def draw(self, generator: torch.Generator, size: int, length: int, held_out: bool) -> tuple[Tensor, Tensor]:
        weights = torch.tensor([1.0, 7.0, self.passes, 4.0])
        ids = torch.multinomial(weights, size * length, replacement=True, generator=generator).view(size, length)
        ids[:, 0], ids[:, -1] = SET, PRINT
        value = torch.zeros(size, dtype=torch.int64)
        targets = torch.full_like(ids, SILENT)
        for n in range(length):
            told = ids[:, n]
            full = (told == INCREMENT) & (value == self.most)
            ids[:, n] = torch.where(full, PASS, told)
            value = torch.where(told == SET, 0, value + ((told == INCREMENT) & ~full))
            targets[:, n] = torch.where(told == PRINT, 4 + value, SILENT)
        return ids, targets
