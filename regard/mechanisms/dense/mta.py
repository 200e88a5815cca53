"""Multi-token attention: scores are convolved over neighbouring queries, keys and heads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.caches import Held, beside
from regard.core import Cost, Limit, Source, Spec
from regard.edits import softmax
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer


@dataclass(frozen=True, eq=False)
class Recent:
    """What decoding keeps: keys and values, and the last queries, which later scores are convolved with.

    Shapes: queries [B, H, r, D]; positions [B|1, r], -1 for padding.
    """

    held: Held
    queries: Tensor | None = None
    positions: Tensor | None = None


class MultiTokenAttention(Mixer):
    """A weight depends on several queries, keys and heads at once: scores are convolved before the softmax.

    A kernel per head of `query_kernel` queries, up to the query itself, and `key_kernel` keys, around the key; with
    `after=True` weights are convolved once more. `mix_before=True` mixes the scores of all heads, and `head_kernel`
    the weights of so many heads each; it defaults to 2, or 1 (none) of an odd number. `norm` normalises each head's
    output, `rescale` then shrinks it by the layer's depth, and `gate` multiplies it by a sigmoid of itself.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E]. Kernels [H, 1, query_kernel,
    key_kernel], the last row for the query itself, start as identities, as do the matrices that mix heads.
    Raises: ValueError where a kernel is below 1, `key_kernel` is even, `head_kernel` does not divide the heads, or
    `rescale` comes without `norm`.
    Source: "Multi-Token Attention", 2504.00927, section 3, and its code.
    """

    spec: ClassVar[Spec] = Spec(
        id="mta",
        slot="mixer",
        source=Source(
            "Multi-Token Attention",
            "2504.00927",
            "section 3",
            authors="Golovneva, Olga and Wang, Tianlu and Weston, Jason and Sukhbaatar, Sainbayar",
        ),
        what="Scores are convolved over neighbouring queries, keys and heads before they become weights.",
        formula="S = q k^T / sqrt(D), 0 for later keys\n"
        "S'[i, j] = sum_ab theta_h[a, b] S[i - a, j + b],  a = 0 .. cq - 1, |b| <= (ck - 1) / 2\n"
        "A_h = sum_g W[h, g] softmax(S'_g), g in the group of h\n"
        "out = A v",
        causal=True,
        bidirectional=False,
        cross=False,
        decode=True,
        gqa=True,
        padding=True,
        scores=False,
        cost=Cost(time=2, state=1),
        limits=(
            Limit("softmax"),
            Limit("softmax", after=True, mix_before=True, head_kernel=4),
            Limit("softmax", query_kernel=1, key_kernel=1, head_kernel=1),
        ),
        variants=(
            {"query_kernel": 3, "key_kernel": 5, "after": True, "mix_before": True, "norm": True, "rescale": True},
            {"query_kernel": 1, "key_kernel": 3, "head_kernel": 1, "gate": True},
        ),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        value_dim: int,
        *,
        query_kernel: int = 6,
        key_kernel: int = 11,
        after: bool = False,
        mix_before: bool = False,
        head_kernel: int | None = None,
        norm: bool = False,
        rescale: bool = False,
        gate: bool = False,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if head_kernel is None:
            head_kernel = 2 if heads % 2 == 0 else 1
        self.query_kernel, self.key_kernel, self.head_kernel = query_kernel, key_kernel, head_kernel
        self.rescale = rescale
        self.at_least(query_kernel=1, key_kernel=1, head_kernel=1)
        if key_kernel % 2 == 0:
            raise ValueError(
                f"{name}.key_kernel must be odd, to reach equally far to both sides; got {key_kernel}. Type "
                f"key_kernel={key_kernel + 1}."
            )
        if heads % head_kernel:
            fits = next(size for size in range(head_kernel, 0, -1) if heads % size == 0)
            raise ValueError(f"{name}.head_kernel={head_kernel} must divide heads={heads}. Type head_kernel={fits}.")
        if rescale and not norm:
            raise ValueError(f"{name}.rescale=True shrinks what norm=True makes; got norm=False. Type norm=True too.")
        self.kernel = nn.Parameter(self._identity(heads))
        self.kernel_after = nn.Parameter(self._identity(heads)) if after else None
        self.heads_before = nn.Parameter(torch.eye(heads)) if mix_before else None
        eyes = torch.eye(head_kernel).repeat(heads // head_kernel, 1, 1)
        self.heads_after = nn.Parameter(eyes) if head_kernel > 1 else None
        self.norm = nn.Parameter(torch.ones(value_dim)) if norm else None
        self.gate = nn.Linear(value_dim, 1) if gate else None
        if self.gate is not None:
            std = dim**-0.5
            nn.init.trunc_normal_(self.gate.weight, std=std, a=-3 * std, b=3 * std)
            nn.init.zeros_(self.gate.bias)

    @property
    def reach(self) -> int:
        """How many queries before a query its weights depend on."""
        return (self.query_kernel - 1) * (1 if self.kernel_after is None else 2)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        i, j = call.q_at(q.shape[2], k.shape[2]), call.k_at(k.shape[2])
        order, documents = None, call.documents
        if call.padded:
            # Neighbours are the tokens next to each other, with padding taken out from between them.
            (q, i), order = _packed((q,), i)
            (k, v, j), _ = _packed((k, v), j)
            if documents is not None:
                documents = documents.expand(order.shape[0], -1).gather(1, order)
        out = self._finished(self._weights(q, k, i, j, documents), v, call.layer)
        return out if order is None else out.take_along_dim(order.argsort(-1)[:, None, :, None], 2)

    def init_state(self, batch: int, held: Held) -> Recent:
        return Recent(held)

    def step(self, state: Recent, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Recent]:
        n, at = q.shape[2], call.q_at(q.shape[2], k.shape[2])
        held = state.held.append((k, v), call.k_at(n))
        if state.queries is not None and state.positions is not None:
            q, at = torch.cat([state.queries, q], 2), beside(state.positions, at)
        keys, values = held.parts
        out = self.mix(q, keys, values, call.with_(q_positions=at, k_positions=held.positions))[:, :, -n:]
        if bool((at < 0).any()):
            (q, at), _ = _packed((q,), at)
        first = max(0, q.shape[2] - self.reach)
        return out, Recent(held, q[:, :, first:], at[:, first:])

    def _identity(self, heads: int) -> Tensor:
        kernel = torch.zeros(heads, 1, self.query_kernel, self.key_kernel)
        kernel[:, :, -1, self.key_kernel // 2] = 1.0
        return kernel

    def _weights(self, q: Tensor, k: Tensor, i: Tensor, j: Tensor, documents: Tensor | None = None) -> Tensor:
        """Weights [B, H, N, M] of queries at positions i [B|1, N] over keys at j [B|1, M], padding first in both.

        `documents` [B|1, N] are those of the queries and of the keys.
        """
        i, j = i[:, None, :, None], j[:, None, None, :]
        seen = (i >= 0) & (j >= 0) & (j <= i)
        if documents is not None:
            seen = seen & (documents[:, None, :, None] == documents[:, None, None, :])
        kind = torch.promote_types(q.dtype, torch.float32)
        grouped = q.to(kind).unflatten(1, (k.shape[1], -1)).flatten(2, 3)
        scores = (grouped @ k.to(kind).transpose(-1, -2)).reshape(*q.shape[:3], -1) / math.sqrt(q.shape[-1])
        # Later keys count as 0 and not as -inf, so that they neither show nor spoil what they are convolved with.
        scores = self._convolved(scores.masked_fill(~seen, 0.0), self.kernel, documents)
        if self.heads_before is not None:
            scores = torch.einsum("hg,bgnm->bhnm", self.heads_before.to(kind), scores)
        weights = softmax.weights(scores, seen)
        if self.kernel_after is not None:
            weights = self._convolved(weights, self.kernel_after, documents).masked_fill(~seen, 0.0)
        if self.heads_after is not None:
            groups = weights.unflatten(1, (-1, self.head_kernel))
            weights = torch.einsum("xhg,bxgnm->bxhnm", self.heads_after.to(kind), groups).flatten(1, 2)
        return weights

    def _convolved(self, scores: Tensor, kernel: Tensor, documents: Tensor | None = None) -> Tensor:
        side, kernel = self.key_kernel // 2, kernel.to(scores.dtype)
        padded = F.pad(scores, (side, side, self.query_kernel - 1, 0))
        if documents is None:
            return F.conv2d(padded, kernel, groups=len(kernel))
        # A query's row is 0 at keys of other documents; what is left to cut are rows of queries of other documents.
        total, N = torch.zeros_like(scores), scores.shape[2]
        for row in range(self.query_kernel):
            back = self.query_kernel - 1 - row
            same = F.pad(documents[:, back:] == documents[:, : max(N - back, 0)], (min(back, N), 0))
            found = F.conv2d(padded[:, :, row : row + N], kernel[:, :, row : row + 1], groups=len(kernel))
            total = total + found.masked_fill(~same[:, None, :, None], 0.0)
        return total

    def _finished(self, weights: Tensor, v: Tensor, layer: int) -> Tensor:
        """Outputs [B, H, N, E] from weights [B, H, N, M]."""
        grouped = weights.unflatten(1, (v.shape[1], -1)).flatten(2, 3)
        out = (grouped @ v.to(weights.dtype)).reshape(*weights.shape[:3], -1)
        if self.norm is not None:
            out = out * torch.rsqrt(out.square().mean(-1, keepdim=True) + 1e-5) * self.norm
            if self.rescale:
                out = out * (1 - (0.8 - 0.6 * math.exp(-0.3 * layer)))
        out = out.to(v.dtype)
        return out if self.gate is None else out * torch.sigmoid(self.gate(out))


def _packed(parts: tuple[Tensor, ...], at: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
    """Each row of [B, any, N, any] and its positions [B|1, N] with the padding first, and the order [B|1, N]."""
    order = (at >= 0).to(torch.int8).argsort(dim=-1, stable=True)
    moved = tuple(part.take_along_dim(order[:, None, :, None], 2) for part in parts)
    return (*moved, at.gather(1, order)), order
