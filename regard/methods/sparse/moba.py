"""Each query looks at the few blocks of keys whose mean matches it best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from regard.core import Cost, Limit, Source, Spec
from regard.hf import Site
from regard.masks import Mask, blocks
from regard.methods.method import Method
from regard.methods.sparse.pooling import block_means, blocks_of, by_position


@dataclass(frozen=True)
class MoBA(Method):
    """Every query and head chooses `top_k` blocks of `block` keys by the product with their mean key, its own included.

    Later blocks are never chosen; the gate has no parameters and runs in float32. The cache stays whole, and decoding
    chooses by the same gate.

    Raises: ValueError where block < 1 or top_k < 1.
    Source: MoBA: Mixture of Block Attention for Long-Context LLMs, 2502.13189, section 2.
    Differs from the paper: used without the continued training that the paper relies on, and computed with the chosen
    blocks as a mask rather than by gathering the queries of each block.
    """

    block: int = 128
    top_k: int = 8

    spec: ClassVar[Spec] = Spec(
        id="moba",
        slot="method",
        source=Source("MoBA: Mixture of Block Attention for Long-Context LLMs", "2502.13189", "section 2"),
        what="The `top_k` blocks of keys whose mean matches the query best, its own block always.",
        cost=Cost(time=2, state=1),
        limits=(Limit("dense", top_k=10**6), Limit("dense", block=10**6), Limit("block_diagonal", top_k=1)),
        exact_at=(("top_k", 10**6),),
    )

    def __post_init__(self) -> None:
        self.at_least(block=1, top_k=1)

    def where(self, site: Site, q: Tensor, k: Tensor) -> Mask | None:
        positions = site.k_positions
        count = blocks_of(positions, self.block)
        if self.top_k >= count:
            return None
        means, held = block_means(k, positions, self.block, count)
        share = q.shape[1] // k.shape[1]
        scores = q.to(means.dtype) @ means.repeat_interleave(share, 1).transpose(-1, -2)
        site.count_selection(2 * q.shape[0] * q.shape[1] * q.shape[2] * count * q.shape[3])
        own = (site.q_positions.clamp(min=0) // self.block)[:, None, :, None]
        place = torch.arange(count, device=q.device)
        scores = scores.masked_fill((place > own) | (held.unsqueeze(2) == 0), -torch.inf)
        scores = scores.masked_fill(place == own, torch.inf)
        chosen = torch.zeros_like(scores, dtype=torch.bool)
        best = scores.topk(self.top_k, -1)
        chosen.scatter_(-1, best.indices, best.values > -torch.inf)
        return blocks(by_position(chosen, site.q_positions, False), (1, self.block))
