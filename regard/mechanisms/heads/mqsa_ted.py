"""Queries from the mean of the latest inputs, and the loss that teaches item embeddings what follows what."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.projection import LinearProjection, split
from regard.mechanisms.slot import divide


class LQueryAttention(LinearProjection):
    """A query is made of the normalised mean of the last `window` tokens rather than of one; keys and values are plain.

    Fewer tokens than `window` are there at the start: the mean is of those. With `norm=False` it is not normalised.

    Shapes: tokens [B, N, dim] to q, k, v [B, heads, N, dim / heads].
    Raises: ShapeError where `dim` is not a multiple of `heads`; ValueError where window < 1.
    Source: "Collaboration and Transition", 2311.01056, L-query self-attention; its code for the norm.
    Differs from the paper: the norm's epsilon is 1e-8 (the code's 1e-24 is nothing in float32).
    """

    spec: ClassVar[Spec] = Spec(
        id="mqsa_ted",
        slot="projection",
        source=Source(
            "Collaboration and Transition: Distilling Item Transitions into Multi-Query Self-Attention for Sequential "
            "Recommendation",
            "2311.01056",
            "L-query self-attention",
            authors="Zhu, Tianyu and Shi, Yansong and Zhang, Yuan and Wu, Yihong and Mo, Fengran and Nie, Jian-Yun",
        ),
        what="A query is made of the mean of the last few tokens.",
        formula="m_t = mean(x_{t-L+1}, ..., x_t), of those that are there\n"
        "q_t = LayerNorm(m_t) W_q,  k_t = x_t W_k,  v_t = x_t W_v",
        cross=True,
        gqa=False,
        cost=Cost(time=1, state=1),
        limits=(
            Limit("softmax", window=1, norm=False),
            Limit("l_query"),
            Limit("l_query", window=5, bias=True),
            Limit("l_query", window=1000),
        ),
        inert=("k.bias",),  # it adds the same to all of a query's scores, unless a position turns it
        variants=({"window": 1}, {"window": 100, "bias": True}),
    )

    def __init__(self, dim: int, heads: int, *, window: int = 3, norm: bool = True, bias: bool = False) -> None:
        super().__init__(dim, heads, heads, divide("LQueryAttention", dim, heads), bias=bias)
        self.window = window
        self.at_least(window=1)
        self.history = window - 1
        self.norm = nn.LayerNorm(dim, eps=1e-8) if norm else nn.Identity()

    def queries(self, tokens: Tensor, call: Call) -> Tensor:
        return split(self.q(self.norm(self.mean(tokens, call))), self.heads)

    def mean(self, tokens: Tensor, call: Call) -> Tensor:
        """The mean [B, N, dim] of each token and those before it, up to `window` and leaving padding out."""
        if self.window == 1:
            return tokens
        before, real, N = call.before, call.q_real, tokens.shape[1]
        if before is not None:
            tokens = torch.cat([before, tokens], 1)
            at = call.before_positions
            known = at if at is not None else torch.zeros(1, before.shape[1], device=tokens.device)
            own = torch.ones(1, N, dtype=torch.bool, device=tokens.device) if real is None else real
            rows = max(own.shape[0], known.shape[0])
            real = torch.cat([(known >= 0).expand(rows, -1), own.expand(rows, -1)], 1)
        if real is None or bool(real.all()):
            return _latest(tokens, self.window, call.documents)[:, -N:]
        # Real tokens in front, in their order, so that padding is between none of them.
        real = real.expand(tokens.shape[0], -1)
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)
        there = real.gather(1, order)[..., None]
        packed = tokens.gather(1, order[..., None].expand_as(tokens)).masked_fill(~there, 0.0)
        ids = None if call.documents is None else call.documents.expand(tokens.shape[0], -1).gather(1, order)
        mean = _latest(packed, self.window, ids)
        return mean.gather(1, order.argsort(1)[..., None].expand_as(mean))[:, -N:]


def _latest(x: Tensor, window: int, ids: Tensor | None) -> Tensor:
    """The mean [B, N, C] of each row and the window - 1 before it, or as many as there are, of its id [B|1, N]."""
    N = x.shape[1]
    size = min(window, N)
    latest = F.pad(x, (0, 0, size - 1, 0)).unfold(1, size, 1)
    if ids is None:
        return latest.sum(-1) / torch.arange(1, N + 1, device=x.device).clamp(max=window).to(x.dtype)[:, None]
    same = F.pad(ids, (size - 1, 0), value=int(ids.min()) - 1).unfold(1, size, 1) == ids[..., None]
    return (latest * same[:, :, None]).sum(-1) / same.sum(-1, keepdim=True)


def transition_counts(sequences: Tensor, items: int, *, span: int = 1) -> Tensor:
    """How often item b comes within `span` steps after item a: [items, items].

    Shapes: sequences whole numbers [B, N], negative = padding.
    Raises: ValueError where span < 1, or an item is not below `items`.
    """
    if span < 1:
        raise ValueError(f"span must be at least 1; got {span}.")
    if sequences.numel() and int(sequences.max()) >= items:
        raise ValueError(f"Items must be below {items}; got {int(sequences.max())}. Type items={sequences.max() + 1}.")
    counts = torch.zeros(items * items, device=sequences.device)
    for step in range(1, min(span, sequences.shape[1] - 1) + 1):
        a, b = sequences[:, :-step], sequences[:, step:]
        pairs = (a * items + b)[(a >= 0) & (b >= 0)]
        counts += torch.bincount(pairs, minlength=items * items)
    return counts.view(items, items)


def transition_distillation(
    embedding: Tensor,
    counts: Tensor,
    items: Tensor,
    *,
    temperature: float = 0.1,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The loss that makes an item's products with the others follow how often each comes after it; a scalar.

    The cross-entropy of softmax(counts / largest count / temperature) and softmax(sqrt(d) e_i E / temperature), over
    the items given. The paper adds 0.1 of it to the loss of recommending.

    Shapes: embedding [items, d], without a row for padding; counts [items, items]; items whole numbers of any shape,
    negative = padding.
    Raises: ShapeError where they do not fit; ValueError where all items are padding, one has no embedding, or a setting
    is out of range.
    Source: "Collaboration and Transition", 2311.01056, transition-aware embedding distillation.
    """
    if embedding.dim() != 2 or counts.shape != (len(embedding), len(embedding)):
        raise ShapeError(
            f"transition_distillation takes an embedding [I, d] and counts [I, I]; got {list(embedding.shape)} and "
            f"{list(counts.shape)}."
        )
    if not temperature > 0 or not 0 <= dropout < 1:
        raise ValueError(f"temperature must be above 0 and dropout from 0 to 1; got {temperature} and {dropout}.")
    real = items[items >= 0]
    if not len(real):
        raise ValueError("Every item is padding; there is nothing to distil from.")
    if int(real.max()) >= len(embedding):
        raise ValueError(f"Items must be below {len(embedding)}, the embedding's rows; got {int(real.max())}.")
    wide = torch.promote_types(embedding.dtype, torch.float32)
    seen = counts[real].to(wide)
    teacher = (seen / seen.amax(1, keepdim=True).clamp(min=1e-24) / temperature).softmax(1)
    own = embedding[real].to(wide) * embedding.shape[1] ** 0.5
    if dropout:
        kept = torch.rand(own.shape, generator=generator, device=own.device, dtype=wide) >= dropout
        own = own * kept / (1 - dropout)
    return -(teacher * (own @ embedding.to(wide).T / temperature).log_softmax(1)).sum(1).mean()
