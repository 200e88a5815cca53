"""Letters: which block of letters holds both of two?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from regard.bench.tasks.task import SILENT, Task
from regard.core import Source
from regard.errors import RegardError


@dataclass(frozen=True, kw_only=True)
class Letters(Task):
    """Blocks of `block` random letters, each with a dot after it; then a mark and two letters, which one block holds.

    Asked is the first letter of that block, after the second of the two.

    Source: "Multi-Token Attention", 2504.00927, section 4.1, its variant that asks the first letter; smaller here.
    """

    name: ClassVar[str] = "letters"
    what: ClassVar[str] = "One of several blocks of letters holds two given letters; its first letter is asked."
    source: ClassVar[Source] = Source("Multi-Token Attention", "2504.00927", "section 4.1")
    metric: ClassVar[Literal["loss", "accuracy"]] = "accuracy"
    target: ClassVar[float] = 0.99
    usual: ClassVar[int] = 33

    letters: int = 16
    block: int = 5

    def __post_init__(self) -> None:
        self._at_least(letters=4, block=2)

    @property
    def vocabulary(self) -> int:
        return self.letters + 2

    @property
    def least(self) -> int:
        return self.block + 4

    def fit(self, length: int) -> None:
        super().fit(length)
        if (length - 3) % (self.block + 1):
            fits = length - (length - 3) % (self.block + 1) + self.block + 1
            raise RegardError(
                f"{self.label} takes whole blocks of {self.block + 1} tokens and 3 more; got {length}. Type --length "
                f"{fits}."
            )

    def draw(self, generator: torch.Generator, size: int, length: int, held_out: bool) -> tuple[Tensor, Tensor]:
        count, dot, mark = (length - 3) // (self.block + 1), self.letters, self.letters + 1

        def random(*shape: int, below: int = self.letters) -> Tensor:
            return torch.randint(below, shape, generator=generator)

        two = torch.rand(size, self.letters, generator=generator).argsort(-1)[:, :3]
        a, b, other = (two[:, n, None, None] for n in range(3))
        blocks = random(size, count, self.block)
        # A block that happens to hold both gets a third letter for the second.
        both = (blocks == a).any(-1, keepdim=True) & (blocks == b).any(-1, keepdim=True)
        blocks = torch.where(both & (blocks == b), other, blocks)
        rows, chosen = torch.arange(size), random(size, below=count)
        places = torch.rand(size, self.block, generator=generator).argsort(-1)
        blocks[rows, chosen, places[:, 0]] = two[:, 0]
        blocks[rows, chosen, places[:, 1]] = two[:, 1]
        text = torch.cat([blocks, torch.full((size, count, 1), dot)], -1).flatten(1)
        ids = torch.cat([text, torch.full((size, 1), mark), two[:, :2]], 1)
        targets = torch.full_like(ids, SILENT)
        targets[:, -1] = blocks[rows, chosen, 0]
        return ids, targets
