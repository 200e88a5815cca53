"""The floor every selection must beat: blocks of keys drawn at random."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from regard.core import Cost, Limit, Source, Spec
from regard.hf import Site
from regard.masks import Mask, blocks
from regard.methods.method import Method


@dataclass(frozen=True)
class RandomBlocks(Method):
    """Every block of queries and head sees its own block and a random share `keep` of the earlier ones.

    The draw depends on layer, head, the two blocks and `seed` alone, so decoding sees what prefill saw.

    Raises: ValueError where block < 1 or keep is outside [0, 1].
    Source: the random blocks of Big Bird, 2007.14062, alone, as the control for any selection.
    """

    keep: float = 0.25
    block: int = 64
    seed: int = 0

    spec: ClassVar[Spec] = Spec(
        id="random_blocks",
        slot="method",
        source=Source("Big Bird: Transformers for Longer Sequences", "2007.14062", "section 2, random blocks"),
        what="Its own block and a random share `keep` of the earlier ones: the control for any selection.",
        cost=Cost(time=2, state=1),
        limits=(Limit("dense", keep=1.0),),
        exact_at=(("keep", 1.0),),
    )

    def __post_init__(self) -> None:
        self.at_least(block=1)
        if not 0 <= self.keep <= 1:
            raise ValueError(f"RandomBlocks.keep must be in [0, 1]; got {self.keep}.")

    def where(self, site: Site, q: Tensor, k: Tensor) -> Mask | None:
        if self.keep >= 1:
            return None
        count = int(max(site.q_positions.max(), site.k_positions.max())) // self.block + 1
        return blocks(draw(count, q.shape[1], self.keep, self.seed, site.index).to(q.device), self.block)


def draw(count: int, heads: int, keep: float, seed: int, layer: int) -> Tensor:
    """Which earlier blocks each block sees, and its own: boolean [1, heads, count, count].

    Row I keeps ceil(keep * I) of its I earlier blocks; rows do not depend on `count`.
    """
    I = torch.arange(count)
    h = torch.arange(heads).view(-1, 1, 1)
    draws = _uniform(((h * 1_000_003 + I[:, None]) * 1_000_003 + I) + (seed * 8191 + layer) * 7_368_787)
    draws = draws.masked_fill(I[:, None] <= I, torch.inf)
    rank = draws.argsort(-1).argsort(-1)
    wanted = (keep * I).ceil().long()[:, None]
    return ((rank < wanted) & (I[:, None] > I) | (I[:, None] == I)).unsqueeze(0)


def _uniform(counter: Tensor) -> Tensor:
    """Numbers in [0, 1) that depend on the counter alone, by a mixing of 32-bit words."""
    x = counter & 0xFFFFFFFF
    for shift, factor in ((16, 0x45D9F3B), (16, 0x45D9F3B)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return ((x ^ (x >> 16)) & 0xFFFFFFFF).double() / 2**32
