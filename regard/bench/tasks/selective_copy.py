"""Selective copying: a few tokens lie among blanks; tell them in order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from regard.bench.tasks.task import SILENT, Task
from regard.core import Source


@dataclass(frozen=True, kw_only=True)
class SelectiveCopy(Task):
    """`copies` tokens at random places among blanks, then as many marks: at each mark the next of them is asked.

    Token 0 is the blank, the last token is the mark, and those between are data.

    Source: "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", 2312.00752, section 3.1.
    """

    name: ClassVar[str] = "selective_copy"
    what: ClassVar[str] = "Tokens scattered among blanks; at the marks after them they are asked in order."
    source: ClassVar[Source] = Source(
        "Mamba: Linear-Time Sequence Modeling with Selective State Spaces", "2312.00752", "section 3.1"
    )
    metric: ClassVar[Literal["loss", "accuracy"]] = "accuracy"
    target: ClassVar[float] = 0.95
    usual: ClassVar[int] = 64

    copies: int = 8
    tokens: int = 16

    def __post_init__(self) -> None:
        self._at_least(copies=1, tokens=3)

    @property
    def vocabulary(self) -> int:
        return self.tokens

    @property
    def least(self) -> int:
        return 2 * self.copies

    def draw(self, generator: torch.Generator, size: int, length: int, held_out: bool) -> tuple[Tensor, Tensor]:
        before = length - self.copies
        places = torch.rand(size, before, generator=generator).argsort(1)[:, : self.copies].sort(1).values
        data = torch.randint(1, self.tokens - 1, (size, self.copies), generator=generator)
        ids = torch.zeros(size, length, dtype=torch.int64).scatter_(1, places, data)
        ids[:, before:] = self.tokens - 1
        targets = torch.full_like(ids, SILENT)
        targets[:, before:] = data
        return ids, targets
