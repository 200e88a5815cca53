"""A recommender of next items: queries from one item and from several, and a loss that teaches transitions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.errors import ShapeError
from regard.mechanisms import Call
from regard.mechanisms.heads.mqsa_ted import LQueryAttention, transition_distillation
from regard.mechanisms.projection import join, split


class MultiQueryRecommender(nn.Module):
    """Scores of every item as the next one, from a branch with short queries and one with long queries.

    A long query is made of the mean of the last `window` items, which is steadier and less exact than that of one:
    the scores are `alpha` times the short branch's and 1 - `alpha` times the long one's. Items are given from the
    right: the last one of a sequence always has the same position.

    Shapes: ids whole numbers [B, N], N <= length, negative = padding, to scores [B, N, items].
    Raises: ShapeError where ids do not fit, or `dim` is not a multiple of `heads`; ValueError for a setting out of
    range, and for an item that there is not.
    Source: "Collaboration and Transition", 2311.01056, sections 3 and 4; its released code.
    Differs from the paper: norms have an epsilon of 1e-8 (the code's 1e-24 is nothing in float32).
    """

    def __init__(
        self,
        items: int,
        dim: int,
        *,
        length: int = 50,
        window: int = 3,
        alpha: float = 0.5,
        heads: int = 1,
        blocks: int = 1,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        for name, value in (("items", items), ("length", length), ("blocks", blocks)):
            if value < 1:
                raise ValueError(f"MultiQueryRecommender.{name} must be at least 1; got {value}.")
        if not 0 <= alpha <= 1 or not 0 <= dropout < 1:
            raise ValueError(
                f"MultiQueryRecommender needs alpha from 0 to 1 and dropout from 0 to below 1; got {alpha} and "
                f"{dropout}."
            )
        self.items, self.dim, self.length, self.alpha, self.dropout = items, dim, length, alpha, dropout
        self.embedding = nn.Parameter(torch.empty(items, dim).normal_(std=0.01))
        self.positions = nn.Parameter(torch.empty(length, dim).normal_(std=0.01))
        self.short, self.long = (
            nn.ModuleList(LQueryBlock(dim, heads, window=w, dropout=dropout) for _ in range(blocks))
            for w in (1, window)
        )
        self.norm_short, self.norm_long = (nn.LayerNorm(dim, eps=1e-8) for _ in range(2))

    def forward(self, ids: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Scores [B, N, items] of the item after each; those at padding are undefined."""
        short, long = self.hidden(ids, generator=generator)
        return self.alpha * (short @ self.embedding.T) + (1 - self.alpha) * (long @ self.embedding.T)

    def hidden(self, ids: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """What the short and the long branch make of each item [B, N, dim]."""
        self._fits(ids)
        real = ids >= 0
        x = self.embedding[ids.clamp(min=0)] * self.dim**0.5 + self.positions[self.length - ids.shape[1] :]
        x = _dropped(x, self.dropout if self.training else 0.0, generator) * real[..., None]
        places = torch.where(real, real.cumsum(1) - 1, -1)
        branches = []
        for blocks, norm in ((self.short, self.norm_short), (self.long, self.norm_long)):
            made = x
            for block in blocks:
                call = Call(tokens=made, memory=made, causal=True, q_positions=places, k_positions=places)
                made = block(call, generator=generator)
            branches.append(norm(made))
        return branches[0], branches[1]

    def loss(
        self,
        ids: Tensor,
        counts: Tensor | None = None,
        *,
        distil: float = 0.1,
        temperature: float = 0.1,
        decay: float = 1e-4,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """What is minimised for sequences [B, N + 1]: how badly each item's next one is foreseen, a scalar.

        With `counts` [items, items], as `transition_counts` gives them, `distil` times the distillation of them into
        the embedding is added; `decay` weighs the squares of all parameters.

        Raises: ValueError where no item of the sequences has a next one.
        """
        given, wanted = ids[:, :-1], ids[:, 1:]
        known = (given >= 0) & (wanted >= 0)
        if not bool(known.any()):
            raise ValueError("No sequence has two items one after the other; there is nothing to learn from.")
        self._fits(ids[:, 1:])
        total = F.cross_entropy(self(given, generator=generator)[known], wanted[known])
        if counts is not None and distil:
            dropout = self.dropout if self.training else 0.0
            settings = {"temperature": temperature, "dropout": dropout, "generator": generator}
            total = total + distil * transition_distillation(self.embedding, counts, given, **settings)
        return total + decay * sum(p.square().sum() for p in self.parameters()) if decay else total

    @torch.no_grad()
    def recommend(self, ids: Tensor, count: int) -> Tensor:
        """The `count` best next items [B, count] of sequences that end in an item, best first and none of their own.

        Raises: ValueError where count is not from 1 to `items`, or a sequence ends in padding.
        """
        if not 1 <= count <= self.items:
            raise ValueError(f"recommend's count must be from 1 to {self.items}, the number of items; got {count}.")
        if bool((ids[:, -1] < 0).any()):
            raise ValueError("recommend takes sequences that end in an item; put padding in front.")
        return self.unseen(self(ids)[:, -1], ids).topk(count).indices

    @staticmethod
    def unseen(scores: Tensor, ids: Tensor) -> Tensor:
        """Scores [B, items] with -inf for the items of each sequence [B, N]."""
        hidden = torch.zeros_like(scores, dtype=torch.bool)
        return scores.masked_fill(hidden.scatter_reduce(1, ids.clamp(min=0), ids >= 0, "amax"), -torch.inf)

    def _fits(self, ids: Tensor) -> None:
        if ids.dim() != 2 or ids.is_floating_point() or ids.dtype == torch.bool or ids.shape[1] > self.length:
            raise ShapeError(
                f"MultiQueryRecommender takes ids as whole numbers [B, N], N <= {self.length}; got {ids.dtype} "
                f"{list(ids.shape)}."
            )
        if ids.numel() and int(ids.max()) >= self.items:
            raise ValueError(f"Items must be below {self.items}; got {int(ids.max())}. Type items={ids.max() + 1}.")


class LQueryBlock(nn.Module):
    """Attention with queries of `window` items, each added to the query's own input, and a map of its width.

    Shapes: a call's tokens [B, N, dim] to [B, N, dim], zero at padding.
    """

    def __init__(self, dim: int, heads: int, *, window: int, dropout: float) -> None:
        super().__init__()
        self.attention = LQueryAttention(dim, heads, window=window, bias=True)
        self.norm = nn.LayerNorm(dim, eps=1e-8)
        self.inner, self.outer = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.dropout = dropout

    def forward(self, call: Call, *, generator: torch.Generator | None = None) -> Tensor:
        """The call's tokens after this block."""
        part, rate = self.attention, self.dropout if self.training else 0.0
        mean = part.norm(part.mean(call.tokens, call))
        q, (k, v) = split(part.q(mean), part.heads), part.keep(call.memory, call)
        seen = call.visible(q.shape[2], k.shape[2])
        scores = (q @ k.transpose(2, 3) * q.shape[-1] ** -0.5).masked_fill(~seen, torch.finfo(q.dtype).min)
        weights = _dropped(scores.softmax(-1).masked_fill(~seen, 0.0), rate, generator)
        out = self.norm(join(weights @ v) + mean)
        more = self.outer(_dropped(F.relu(self.inner(out)), rate, generator))
        out = out + _dropped(more, rate, generator)
        assert call.q_real is not None
        return out * call.q_real[..., None]


def _dropped(x: Tensor, rate: float, generator: torch.Generator | None) -> Tensor:
    """Dropout that takes a generator."""
    if not rate:
        return x
    return x * (torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) >= rate) / (1 - rate)
