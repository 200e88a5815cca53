"""Latte: tokens read latents, and latents read tokens."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.edits import softmax
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.slot import divide
from regard.ops import Memory, recur


class LatentAttention(Layer):
    """Each token is a mixture of latents, and each latent a mean of values over the tokens; both weights are softmax
    probabilities, so that attention is a matrix of rank `latents` / heads, in linear time.

    `latents` are shared out to the heads, by default 16 to each. In causal calls a latent's weights run over the tokens
    so far, and what is kept of them does not grow.

    Shapes: tokens [B, N, dim] to [B, N, dim]; a state of latents (D + 1) numbers, D = dim / heads.
    Raises: ShapeError where `dim` or `latents` is not a multiple of `heads`; ValueError for latents below 1.
    Source: "Latte: Latent Attention for Linear Time Transformers", 2402.17512, section 3.
    Differs from the paper: without its further, local softmax attention and its gated recurrent values; running sums
    are kept as a logarithm and a mean, in place of a maximum and two sums.
    """

    spec: ClassVar[Spec] = Spec(
        id="latte",
        slot="layer",
        source=Source(
            "Latte: Latent Attention for Linear Time Transformers",
            "2402.17512",
            "section 3",
            authors="Dolga, Rares and Maystre, Lucas and Cobzarenco, Marius and Barber, David",
        ),
        what="Tokens are mixtures of latents, and latents are weighted means over the tokens.",
        formula="p(l | t) = softmax_l(x_t W_q)\n"
        "p(s | l) = softmax_s(x_s W_k)   (causal: over s <= t)\n"
        "out_t = sum_l p(l | t) sum_s p(s | l) v_s",
        cross=True,
        gqa=False,
        cost=Cost(time=1, state=0),
        limits=(
            Limit("latte"),
            Limit("latte", latents=4),
            Limit("latte", latents=40),
            Limit("mean_of_values", zero=("k.weight",)),
        ),
        variants=({"latents": 8},),
    )

    def __init__(self, dim: int, heads: int, *, latents: int | None = None) -> None:
        super().__init__()
        divide("LatentAttention", dim, heads)
        self.dim, self.heads = dim, heads
        self.latents = 16 * heads if latents is None else latents
        self.at_least(latents=1)
        if self.latents % heads:
            fits = heads * -(-self.latents // heads)
            raise ShapeError(
                f"LatentAttention.latents={self.latents} are shared out to heads={heads}. Type latents={fits}."
            )
        self.q, self.k = nn.Linear(dim, self.latents, bias=False), nn.Linear(dim, self.latents, bias=False)
        self.v, self.out = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        start(self)

    def attend(self, call: Call) -> Tensor:
        if not call.cross:
            return self.advance(None, call)[0]
        seen = None if call.real is None else call.real[:, None, None]
        shares = softmax.weights(split(self.k(call.memory), self.heads).transpose(-1, -2), seen)
        values = split(self.v(call.memory), self.heads)
        read = self._latents(call.tokens).to(shares.dtype) @ (shares @ values.to(shares.dtype))
        return self.out(join(read).to(call.tokens.dtype))

    def begin(self, batch: int) -> Memory | None:
        return None

    def advance(self, inner: Memory | None, call: Call) -> tuple[Tensor, Memory]:
        x = call.tokens
        read, after = latent_attention(
            self._latents(x), split(self.k(x), self.heads), split(self.v(x), self.heads), call, state=inner
        )
        return self.out(join(read)), after

    def _latents(self, x: Tensor) -> Tensor:
        """The probability of each latent for each token, [B, heads, N, latents / heads]."""
        return softmax.weights(split(self.q(x), self.heads))


def latent_attention(
    shares: Tensor, scores: Tensor, v: Tensor, call: Call, *, state: Memory | None = None
) -> tuple[Tensor, Memory]:
    """Values [B, H, N, E] read by way of latents, and what is kept of them; identity values give the matrix itself.

    Shapes: shares [B, H, N, L], each token's probabilities of latents; scores [B, H, N, L], the latents' of tokens.
    """
    return recur(
        shares.to(torch.promote_types(v.dtype, torch.float32)),
        scores,
        v,
        normalise="softmax",
        state=state,
        causal=call.causal,
        real=call.real,
        documents=call.documents,
        keep=True,
    )
