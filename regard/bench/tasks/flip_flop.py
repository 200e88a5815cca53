"""Flip-flop language: write a bit, ignore others, and read the last one written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from regard.bench.tasks.task import SILENT, Task
from regard.core import Source
from regard.errors import RegardError

BITS, WRITE, READ, IGNORE = (0, 1), 2, 3, 4


@dataclass(frozen=True, kw_only=True)
class FlipFlop(Task):
    """Instructions and bits in turn. After a read stands the bit of the last write, and that bit is asked.

    The first instruction writes and the last reads; each other one ignores with probability `ignore`, else writes or
    reads, alike often. Bits after a write or an ignore are random, and so not asked.

    Source: "Exposing Attention Glitches with Flip-Flop Language Modeling", 2306.00946, section 3.
    """

    name: ClassVar[str] = "flip_flop"
    what: ClassVar[str] = "Bits are written, ignored or read; a read must tell the last bit written."
    source: ClassVar[Source] = Source(
        "Exposing Attention Glitches with Flip-Flop Language Modeling", "2306.00946", "section 3"
    )
    metric: ClassVar[Literal["loss", "accuracy"]] = "accuracy"
    target: ClassVar[float] = 0.999
    usual: ClassVar[int] = 128

    ignore: float = 0.8

    def __post_init__(self) -> None:
        if not 0 <= self.ignore <= 1:
            raise RegardError(f"flip_flop.ignore must be from 0 to 1; got {self.ignore}.")

    @property
    def vocabulary(self) -> int:
        return 5

    @property
    def least(self) -> int:
        return 4

    def fit(self, length: int) -> None:
        super().fit(length)
        if length % 2:
            raise RegardError(f"{self.label} needs an even length; got {length}. Type --length {length + 1}.")

    def shifted(self) -> dict[str, Task]:
        return {"sparse": FlipFlop(ignore=0.98), "dense": FlipFlop(ignore=0.1)}

    def draw(self, generator: torch.Generator, size: int, length: int, held_out: bool) -> tuple[Tensor, Tensor]:
        count = length // 2
        chance = torch.rand(size, count, generator=generator)
        told = torch.where(chance < self.ignore, IGNORE, torch.where(chance < (1 + self.ignore) / 2, WRITE, READ))
        told[:, 0], told[:, -1] = WRITE, READ
        bits = torch.randint(2, (size, count), generator=generator)
        # The place of the last write at or before each instruction.
        places = torch.arange(count).expand(size, -1)
        last = torch.where(told == WRITE, places, 0).cummax(1).values
        bits = torch.where(told == READ, bits.gather(1, last), bits)
        ids = torch.stack([told, bits], 2).flatten(1)
        targets = torch.full_like(ids, SILENT)
        targets[:, 0::2] = torch.where(told == READ, bits, SILENT)
        return ids, targets
