"""The best any selection could do: each query sees the keys with the highest true scores."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from regard.core import Cost, Limit, Source, Spec
from regard.hf import Site
from regard.masks import Mask, blocks, keys
from regard.methods.method import Method
from regard.methods.sparse.pooling import blocks_of, by_position

_SCORES = 1 << 22  # scores held at a time


@dataclass(frozen=True)
class OracleTopK(Method):
    """Every query and head sees its `k` highest-scoring keys, found by scoring all of them: a bound, not a saving.

    With `block` above 1 it is the upper bound for methods that choose blocks: each block of queries sees the blocks of
    keys, `k / block` of them and its own among these, that hold most of its true attention.

    Raises: ValueError where k < 1, block < 1, or k is not a multiple of block.
    """

    k: int = 512
    block: int = 1

    spec: ClassVar[Spec] = Spec(
        id="oracle_top_k",
        slot="method",
        source=Source("The oracle that selections are measured against"),
        what="The `k` keys with the highest true scores: what a perfect selection of that size would see.",
        cost=Cost(time=2, state=1),
        limits=(Limit("dense", k=10**6),),
        exact_at=(("k", 10**6),),
    )

    def __post_init__(self) -> None:
        self.at_least(k=1, block=1)
        if self.k % self.block:
            raise ValueError(f"OracleTopK.k must be a multiple of block; got k={self.k} and block={self.block}.")

    def where(self, site: Site, q: Tensor, k: Tensor) -> Mask | None:
        if self.k >= k.shape[2]:
            return None
        site.count_selection(2 * q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2] * q.shape[3])
        if self.block > 1:
            return blocks(self._blocks(site, q, k), self.block)
        index = torch.empty(*q.shape[:3], self.k, dtype=torch.int64, device=q.device)
        at_k = _by_head(site.k_positions)
        for start, scores in _scored(site, q, k):
            best = scores.topk(self.k, -1)
            found = at_k.expand(scores.shape).gather(-1, best.indices)
            index[:, :, start : start + scores.shape[2]] = found.masked_fill(best.values == -torch.inf, -1)
        return keys(by_position(index, site.q_positions, -1), 0)

    def _blocks(self, site: Site, q: Tensor, k: Tensor) -> Tensor:
        """The chosen blocks, boolean [B, H, Tq, Tk]."""
        (B, H, _, _), at_q, at_k = q.shape, site.q_positions, _by_head(site.k_positions)
        down, across = blocks_of(at_q, self.block), blocks_of(at_k, self.block)
        mass = q.new_zeros(B, H, down + 1, across + 1, dtype=torch.float32)
        column = torch.where(at_k >= 0, at_k // self.block, across)
        row = torch.where(at_q >= 0, at_q // self.block, down)
        for start, scores in _scored(site, q, k):
            weights = scores.softmax(-1).nan_to_num(0.0)
            n = scores.shape[2]
            held = weights.new_zeros(B, H, n, across + 1).scatter_add_(-1, column.expand(weights.shape), weights)
            into = row[:, None, start : start + n, None].expand(held.shape)
            mass.scatter_add_(2, into, held.float())
        mass = mass[:, :, :down, :across]
        own = torch.eye(down, across, dtype=torch.bool, device=q.device)
        best = mass.masked_fill(own, torch.inf).topk(min(across, self.k // self.block), -1)
        return torch.zeros_like(mass, dtype=torch.bool).scatter(-1, best.indices, best.values > 0)


def _by_head(positions: Tensor) -> Tensor:
    """Key positions as [B|1, H|1, 1, M]."""
    return (positions.unsqueeze(1) if positions.dim() == 2 else positions).unsqueeze(2)


def _scored(site: Site, q: Tensor, k: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Scores [B, H, n, M] of some queries at a time, -inf where the model does not look, and the first query's row."""
    (B, H, N, D), M = q.shape, k.shape[2]
    step = max(1, _SCORES // (B * H * M))
    b, h = torch.arange(B, device=q.device).view(-1, 1, 1, 1), torch.arange(H, device=q.device).view(1, -1, 1, 1)
    turned = k.transpose(-1, -2).to(torch.promote_types(k.dtype, torch.float32))
    at_k = _by_head(site.k_positions)
    for start in range(0, N, step):
        some = q[:, :, start : start + step].to(turned.dtype) * (site.scale or D**-0.5)
        scores = (some.reshape(B, k.shape[1], -1, D) @ turned).view(B, H, -1, M)
        i = site.q_positions[:, None, start : start + step, None]
        seen = site.base.at(b, h, i, at_k) & (at_k >= 0) & (i >= 0)
        yield start, scores.masked_fill(~seen, -torch.inf)
