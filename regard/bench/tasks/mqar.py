"""Multi-query associative recall: which value came after this key?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from regard.bench.tasks.task import SILENT, Task
from regard.core import Source
from regard.errors import RegardError


@dataclass(frozen=True, kw_only=True)
class MQAR(Task):
    """Pairs of a key and its value, then each key once more: its value is asked there.

    Half the tokens are keys (0, a blank, is none of them) and half are values; a sequence has each key and each value
    at most once. The queries lie at gaps from a power law, `power` from 0 (most of them near the pairs) to 1 (evenly);
    between them are blanks, or with `noise` random tokens.

    Source: "Zoology: Measuring and Improving Recall in Efficient Language Models", 2312.04927, and its
    public code.
    """

    name: ClassVar[str] = "mqar"
    what: ClassVar[str] = "Pairs of a key and a value; each key comes once more and its value is asked."
    source: ClassVar[Source] = Source(
        "Zoology: Measuring and Improving Recall in Efficient Language Models",
        "2312.04927",
        "multi-query associative recall",
    )
    metric: ClassVar[Literal["loss", "accuracy"]] = "accuracy"
    target: ClassVar[float] = 0.95
    usual: ClassVar[int] = 32

    pairs: int = 4
    tokens: int = 32
    power: float = 0.01
    noise: bool = False

    def __post_init__(self) -> None:
        self._at_least(pairs=1, power=0.0)
        if self.power > 1:
            raise RegardError(f"mqar.power must be from 0 to 1; got {self.power}.")
        if self.tokens < 2 * (self.pairs + 1):
            raise RegardError(
                f"mqar.tokens must be at least {2 * (self.pairs + 1)} for {self.pairs} pairs; got {self.tokens}."
            )

    @property
    def vocabulary(self) -> int:
        return self.tokens

    @property
    def least(self) -> int:
        return 4 * self.pairs

    def fit(self, length: int) -> None:
        super().fit(length)
        if length % 2:
            raise RegardError(f"{self.label} needs an even length; got {length}. Type --length {length + 1}.")

    def draw(self, generator: torch.Generator, size: int, length: int, held_out: bool) -> tuple[Tensor, Tensor]:
        first = self.tokens // 2  # the first value
        keys = _some(generator, size, first - 1, self.pairs) + 1
        values = _some(generator, size, self.tokens - first, self.pairs) + first
        start = 2 * self.pairs
        places = torch.arange(1, (length - start) // 2 + 1, dtype=torch.float64)
        weights = places ** (self.power - 1)
        at = start + 2 * torch.multinomial(weights.expand(size, -1), self.pairs, generator=generator)
        ids = torch.zeros(size, length, dtype=torch.int64)
        if self.noise:
            ids = torch.randint(self.tokens, (size, length), generator=generator)
        ids[:, 0:start:2], ids[:, 1:start:2] = keys, values
        ids.scatter_(1, at, keys)
        return ids, torch.full_like(ids, SILENT).scatter_(1, at, values)


def _some(generator: torch.Generator, size: int, of: int, count: int) -> Tensor:
    """`count` different numbers below `of` for each row, in random order."""
    return torch.rand(size, of, generator=generator).argsort(1)[:, :count]
