"""Character language modelling on the book that ships."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from regard.bench.tasks.task import Task
from regard.bench.text import read
from regard.core import Source
from regard.errors import RegardError

_HELD_OUT = 0.1  # the share of the book, its end, that is kept for testing


@dataclass(frozen=True, kw_only=True)
class CharLM(Task):
    """Stretches of the book, a token for each character that it uses; every next character is asked.

    Training reads the first nine tenths of the book and testing the last.
    """

    name: ClassVar[str] = "char_lm"
    what: ClassVar[str] = "Predict the next character of a book; its last tenth is held out."
    source: ClassVar[Source] = Source("Alice's Adventures in Wonderland", "", "the book that ships with regard")
    metric: ClassVar[Literal["loss", "accuracy"]] = "loss"
    target: ClassVar[float] = 2.0
    usual: ClassVar[int] = 128

    @property
    def vocabulary(self) -> int:
        return len(_book()[0])

    def draw(self, generator: torch.Generator, size: int, length: int, held_out: bool) -> tuple[Tensor, Tensor]:
        _, ids = _book()
        edge = int(len(ids) * (1 - _HELD_OUT))
        part = ids[edge:] if held_out else ids[:edge]
        if length >= len(part):
            raise RegardError(f"{self.label} has {len(part)} characters to draw from; type --length {len(part) - 1}.")
        starts = torch.randint(len(part) - length, (size, 1), generator=generator)
        stretch = part[starts + torch.arange(length + 1)]
        return stretch[:, :-1], stretch[:, 1:]


@functools.cache
def _book() -> tuple[str, Tensor]:
    """The characters that the book uses, in order, and the book as their numbers."""
    content = read().content
    letters = "".join(sorted(set(content)))
    number = {letter: place for place, letter in enumerate(letters)}
    return letters, torch.tensor([number[letter] for letter in content])
