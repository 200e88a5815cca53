"""Attention residuals: a softmax over the outputs of all earlier sub-layers in place of their sum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.across import Depth, wide


@dataclass(frozen=True, eq=False)
class Blocks:
    """What is kept between sub-layers: the finished blocks, and what they give to each reader of the block at work.

    Shapes: sums [B, N, n, C] of the finished blocks; largest and total [B, N, S] and read [B, N, S, C], the largest
    logit of each reader over them, the sum of its powers, and the powers' sum of blocks; partial [B, N, C].
    """

    sums: Tensor
    largest: Tensor
    total: Tensor
    read: Tensor
    partial: Tensor | None = None


class AttentionResiduals(Depth):
    """Each sub-layer reads a softmax-weighted mean of the outputs before it, by one learned query over normed keys.

    With `block_size` the outputs of that many sub-layers are summed into one source, and beside the finished blocks a
    sub-layer reads the sum so far of its own. All queries start at zero: the mean of the sources. Source by source it
    goes in two phases: all readers of a block meet the finished blocks at once, and each adds its block's sum so far.
    `norm="sum"` adds the sources up instead, which is the plain residual.

    Shapes: sources [B, N, S, dim], the model's input and each sub-layer's output, to what is read after each
    [B, N, S, dim]; `layers` is at most how many, the input counted.
    Raises: ValueError where `layers` or `block_size` is below 1 or `norm` is unknown.
    Source: "Attention Residuals", 2603.15031.
    """

    spec: ClassVar[Spec] = Spec(
        id="attention_residuals",
        slot="depth",
        source=Source("Attention Residuals", "2603.15031", authors="{Kimi Team}"),
        what="Each sub-layer reads a softmax-weighted mean of the outputs of all sub-layers before it.",
        formula="h_l = sum_i a_i v_i,  a = softmax_i(w_l . (g_l * rmsnorm(v_i)))  over  i < l\n"
        "block_size: the v_i are sums of so many outputs, the last one that of the block at work",
        bidirectional=False,
        gqa=False,
        cost=Cost(time=2, state=1),
        limits=(
            Limit("mean_of_sources"),
            Limit("attention_residuals", block_size=3),
            Limit("sum_of_sources", norm="sum"),
        ),
        variants=({"block_size": 5}, ({"norm": "sum"}, Cost(time=1, state=0))),
    )

    def __init__(
        self, dim: int, *, layers: int = 64, block_size: int | None = None, norm: str = "softmax", eps: float = 1e-6
    ) -> None:
        super().__init__()
        self.dim, self.layers, self.block_size, self.norm, self.eps = dim, layers, block_size, norm, eps
        self.at_least(layers=1)
        if block_size is not None:
            self.at_least(block_size=1)
        self.one_of("norm", ("softmax", "sum"))
        if norm == "softmax":
            self.query = nn.Parameter(torch.zeros(layers, dim))
            self.gain = nn.Parameter(torch.ones(layers, dim))

    def read(self, sources: Tensor) -> Tensor:
        held = sources.to(wide(sources))
        if self.norm == "sum":
            return held.cumsum(2).to(sources.dtype)
        sums, partial = self._blocks(held)
        a = self._weights(sums, partial)
        return (a[..., :-1] @ sums + a[..., -1:] * partial).to(sources.dtype)

    def weights(self, sources: Tensor) -> Tensor:
        """How much of each block a reader takes, [B, N, S, blocks + 1]; the last column is its own block's sum so far.

        Without blocks every source is one, and the last column is zero. `.mean((0, 1))` is the average over tokens.

        Shapes: sources [B, N, S, C].
        Raises: ValueError for norm="sum", which has no weights.
        """
        if self.norm == "sum":
            raise ValueError("AttentionResiduals.norm='sum' has no weights: all are 1. Type norm='softmax'.")
        return self._weights(*self._blocks(sources.to(wide(sources))))

    def _blocks(self, sources: Tensor) -> tuple[Tensor, Tensor]:
        """The blocks [B, N, n, C], the input first, and each reader's own block so far [B, N, S, C], 0 where empty."""
        size, readers = self.block_size or 1, sources.shape[2]
        rest = F.pad(sources[:, :, 1:], (0, 0, 0, -(readers - 1) % size)).unflatten(2, (-1, size)).cumsum(3)
        whole = (readers - 1) // size
        sums = torch.cat([sources[:, :, :1], rest[:, :, :whole, -1]], 2)
        running = F.pad(rest.flatten(2, 3)[:, :, : readers - 1], (0, 0, 1, 0))
        open_ = torch.arange(readers, device=sources.device) % size != 0
        return sums, running.masked_fill(~open_[:, None], 0.0)

    def _weights(self, sums: Tensor, partial: Tensor) -> Tensor:
        size, readers = self.block_size or 1, partial.shape[2]
        asks, number = self._asks(0, readers, sums), torch.arange(readers, device=sums.device)
        logits = asks @ self._keys(sums).transpose(-1, -2)
        there = torch.arange(sums.shape[2], device=sums.device) <= (number // size)[:, None]
        own = (asks * self._keys(partial)).sum(-1, keepdim=True).masked_fill((number % size == 0)[:, None], -torch.inf)
        return torch.cat([logits.masked_fill(~there, -torch.inf), own], -1).softmax(-1)

    def advance(self, inner: Blocks | Tensor | None, source: Tensor, at: int) -> tuple[Tensor, Blocks | Tensor]:
        new = source.to(wide(source))
        if self.norm == "sum":
            total = inner + new if isinstance(inner, Tensor) else new
            return total.to(source.dtype), total
        read, kept = self._advance(inner if isinstance(inner, Blocks) else None, new, at)
        return read.to(source.dtype), kept

    def _advance(self, inner: Blocks | None, new: Tensor, at: int) -> tuple[Tensor, Blocks]:
        size = self.block_size or 1
        if inner is None:
            kept = self._first_phase(new[:, :, None], at)
        else:
            partial = new if inner.partial is None else inner.partial + new
            if at % size:
                kept = Blocks(inner.sums, inner.largest, inner.total, inner.read, partial)
                return self._second_phase(kept, partial, at), kept
            kept = self._first_phase(torch.cat([inner.sums, partial[:, :, None]], 2), at)
        return kept.read[:, :, 0] / kept.total[:, :, :1], kept

    def _first_phase(self, sums: Tensor, at: int) -> Blocks:
        """What the finished blocks give to every reader of the block that begins."""
        asks = self._asks(at, at + (self.block_size or 1), sums)
        logits = asks @ self._keys(sums).transpose(-1, -2)
        largest = logits.amax(-1)
        powers = (logits - largest[..., None]).exp()
        return Blocks(sums, largest, powers.sum(-1), powers @ sums)

    def _second_phase(self, kept: Blocks, partial: Tensor, at: int) -> Tensor:
        """The read [B, N, C] of reader `at` with its block's sum so far merged in."""
        place = at % (self.block_size or 1)
        logit = (self._asks(at, at + 1, partial)[0] * self._keys(partial)).sum(-1)
        before = kept.largest[:, :, place]
        largest = torch.maximum(before, logit)
        old, new = (before - largest).exp(), (logit - largest).exp()
        total = old * kept.total[:, :, place] + new
        return (old[..., None] * kept.read[:, :, place] + new[..., None] * partial) / total[..., None]

    def _asks(self, first: int, last: int, like: Tensor) -> Tensor:
        """The queries of some readers, with the scale of their keys' norm in them, [readers, C]."""
        return self.query[first:last].to(like.dtype) * self.gain[first:last].to(like.dtype)

    def _keys(self, x: Tensor) -> Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt()
