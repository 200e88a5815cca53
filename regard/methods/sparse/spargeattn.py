"""Skip the blocks of keys whose pooled score says that they hold little attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.core import Cost, Limit, Source, Spec
from regard.hf import Site
from regard.masks import EMPTY, PARTIAL, Mask, blocks
from regard.methods.method import Method
from regard.methods.sparse.pooling import block_means, blocks_of


@dataclass(frozen=True)
class SpargeAttn(Method):
    """In prefill, each block of queries computes the fewest key blocks whose pooled attention reaches `tau`.

    Blocks whose tokens point in different directions (mean cosine similarity not above `theta`) are never skipped,
    since their mean says little about them; keys are taken without the mean of all keys. `sink` keeps the first key
    block. Decoding is dense.

    Raises: ValueError where tau is outside (0, 1], theta outside [-1, 1], or a block size is below 1.
    Source: SpargeAttn, 2502.18137, section 3: the first of its two filters.
    Differs from the paper: one tau and theta for all heads instead of a tuned table; blocks on the edge of what the
    model allows and on the diagonal are always computed, so that no query is left without keys; its second filter
    (skipping products inside the softmax loop) and its INT8 path belong to a kernel and are left out.
    """

    tau: float = 0.9
    theta: float = 0.3
    q_block: int = 128
    k_block: int = 64
    sink: bool = True

    spec: ClassVar[Spec] = Spec(
        id="spargeattn",
        slot="method",
        source=Source(
            "SpargeAttn: Accurate Sparse Attention Accelerating Any Model Inference", "2502.18137", "section 3"
        ),
        what="The fewest key blocks whose pooled attention reaches `tau`, chosen for each block of queries in prefill.",
        cost=Cost(time=2, state=1),
        limits=(Limit("dense", tau=1.0), Limit("dense", theta=1.0)),
        exact_at=(("tau", 1.0),),
    )

    def __post_init__(self) -> None:
        self.at_least(q_block=1, k_block=1)
        if not 0 < self.tau <= 1:
            raise ValueError(f"SpargeAttn.tau must be in (0, 1]; got {self.tau}.")
        if not -1 <= self.theta <= 1:
            raise ValueError(f"SpargeAttn.theta must be in [-1, 1]; got {self.theta}.")

    def where(self, site: Site, q: Tensor, k: Tensor) -> Mask | None:
        if site.phase == "decode" or self.tau >= 1 or self.theta >= 1:
            return None
        return blocks(self.choose(q, k, site), (self.q_block, self.k_block))

    def choose(self, q: Tensor, k: Tensor, site: Site) -> Tensor:
        """Which key blocks each query block computes: boolean [B, H, Tq, Tk], by blocks of positions."""
        at_q, at_k = site.q_positions, site.k_positions
        down, across = blocks_of(at_q, self.q_block), blocks_of(at_k, self.k_block)
        share = q.shape[1] // k.shape[1]
        smooth = k - block_means(k, at_k, int(at_k.max()) + 1, 1)[0].to(k.dtype)
        q_mean, _ = block_means(q, at_q, self.q_block, down)
        k_mean, held = block_means(smooth, at_k, self.k_block, across)
        alike_q = self._alike(q, at_q, self.q_block, down)
        alike_k = self._alike(smooth, at_k, self.k_block, across).repeat_interleave(share, 1)
        scores = q_mean @ k_mean.repeat_interleave(share, 1).transpose(-1, -2) * (site.scale or q.shape[-1] ** -0.5)
        i, j = torch.arange(down * self.q_block), torch.arange(across * self.k_block)
        tiles = site.base.tiles(
            len(i),
            len(j),
            (self.q_block, self.k_block),
            batch=q.shape[0],
            heads=q.shape[1],
            q_positions=i,
            k_positions=j,
        ).status.to(q.device)
        i, j = i[:: self.q_block, None].to(q.device), j[:: self.k_block].to(q.device)
        own = (j < i + self.q_block) & (i < j + self.k_block)
        usable = (tiles != EMPTY) & (held > 0).unsqueeze(2)
        weights = torch.softmax(scores.masked_fill(~(usable & alike_k.unsqueeze(2)), -torch.inf), -1).nan_to_num(0.0)
        ordered, order = weights.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered
        kept = torch.zeros_like(weights, dtype=torch.bool).scatter(-1, order, (before < self.tau) & (ordered > 0))
        kept = kept | ~alike_q.unsqueeze(-1) | ~alike_k.unsqueeze(-2) | (tiles == PARTIAL) | own
        if self.sink:
            kept[..., 0] = True
        tokens = q.shape[1] * q.shape[2] + 2 * k.shape[1] * k.shape[2]
        site.count_selection(q.shape[0] * q.shape[-1] * (2 * scores[0].numel() + 2 * tokens))
        return kept & usable

    def _alike(self, x: Tensor, positions: Tensor, block: int, count: int) -> Tensor:
        """Whether each block's tokens point the same way: [B, H, count]; the mean cosine over all pairs of a block."""
        unit = F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
        mean, _ = block_means(unit, positions, block, count)
        # The mean over all pairs of cosines is the squared length of the mean unit vector.
        return mean.square().sum(-1) > self.theta
