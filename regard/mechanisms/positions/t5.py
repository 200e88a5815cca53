"""T5's relative position bias."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.edits import Edit
from regard.mechanisms.call import Call
from regard.mechanisms.position import Position


@dataclass(frozen=True, eq=False, repr=False)
class BucketBias(Edit):
    """Add `table[bucket of the distance, head]`.

    Shapes: table [buckets, H]; before and after whole numbers [max_distance + 1], the bucket of a key that many
    positions before or after the query.
    """

    additive: ClassVar[bool] = True
    table: Tensor
    before: Tensor
    after: Tensor

    def bias(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        far = (i - j).abs().clamp(max=len(self.before) - 1)
        return self.table[torch.where(j > i, self.after[far], self.before[far]), h]


class T5Bias(Position):
    """A learned bias for each head and each bucket of distances; near distances have a bucket each, far ones share.

    Causal calls spread all `buckets` over the distances before the query, bidirectional ones half of them over either
    side. Distances of `max_distance` and more share the last.

    Shapes: scores of queries [B, H, N, D] and keys [B, G, M, D].
    Raises: ValueError unless buckets is a multiple of 4 and max_distance is above half of them.
    Source: "Exploring the Limits of Transfer Learning", 1910.10683, section 2.1; buckets as in its code.
    Differs from the paper: scores are scaled as the mixer says, 1 / sqrt(D) by default; T5's are not scaled, type
    mixer="softmax:scale=1.0". The table starts at a spread of 0.02.
    """

    spec: ClassVar[Spec] = Spec(
        id="t5",
        slot="position",
        source=Source(
            "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
            "1910.10683",
            "section 2.1",
            authors="Raffel, Colin and Shazeer, Noam and Roberts, Adam and Lee, Katherine and Narang, Sharan and "
            "Matena, Michael and Zhou, Yanqi and Li, Wei and Liu, Peter J.",
        ),
        what="A learned bias for each head and each bucket of distances is added to the scores.",
        formula="s_ij = q_i k_j / sqrt(D) + table[bucket(j - i), h]",
        cross=True,
        scores=True,
        cost=Cost(time=1, state=0),
        limits=(Limit("t5"), Limit("softmax", zero=("position.table",))),
        variants=({"buckets": 8, "max_distance": 6},),
    )

    def __init__(self, heads: int, *, buckets: int = 32, max_distance: int = 128) -> None:
        super().__init__()
        self.buckets, self.max_distance = buckets, max_distance
        if buckets < 4 or buckets % 4:
            raise ValueError(f"T5Bias.buckets must be a multiple of 4, at least 4; got {buckets}. Type buckets=32.")
        if max_distance <= buckets // 2:
            raise ValueError(
                f"T5Bias.max_distance must be more than half the buckets, {buckets // 2}; got {max_distance}. "
                f"Type max_distance={4 * buckets}."
            )
        self.table = nn.Parameter(torch.empty(buckets, heads))
        nn.init.normal_(self.table, std=0.02)
        self.one_sided: Tensor
        self.two_sided: Tensor
        self.register_buffer("one_sided", shared(buckets, max_distance), persistent=False)
        self.register_buffer("two_sided", shared(buckets // 2, max_distance), persistent=False)

    def edits(self, q: Tensor, k: Tensor, call: Call) -> tuple[Edit, ...]:
        if call.causal:
            return (BucketBias(self.table, self.one_sided, torch.zeros_like(self.one_sided)),)
        return (BucketBias(self.table, self.two_sided, self.two_sided + self.buckets // 2),)


def shared(buckets: int, max_distance: int) -> Tensor:
    """The bucket of every distance [max_distance + 1]: one each for the first half, the rest by the logarithm."""
    distance, near = torch.arange(max_distance + 1), buckets // 2
    # In float32, whose rounding decides at distances that are just at a border, as in the models trained so.
    along = torch.log(distance.clamp(min=1).float() / near) / math.log(max_distance / near)
    far = (near + (along * (buckets - near)).long()).clamp(max=buckets - 1)
    return torch.where(distance < near, distance, far)
