"""Cog attention: weights that may be negative."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer


class CogAttention(Mixer):
    """Every weight is the softmax of the scores' sizes times the score's sign: a head can copy, delete or ignore.

    Scores are held a tile of `block` queries and `block` keys at a time. `scale` defaults to D ** -0.5.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E].
    Raises: ValueError where `block` is below 1.
    Source: "More Expressive Attention with Negative Weights", 2411.07176, section 2.
    Differs from the paper: edits of scores are refused, since the paper does not say how a bias meets a sign.
    """

    spec: ClassVar[Spec] = Spec(
        id="cog_attention",
        slot="mixer",
        source=Source(
            "More Expressive Attention with Negative Weights",
            "2411.07176",
            "section 2",
            authors="Lv, Ang and Xie, Ruobing and Li, Shuaipeng and Liao, Jiayi and Sun, Xingwu and Kang, Zhanhui and "
            "Wang, Di and Yan, Rui",
        ),
        what="Every weight is the softmax of the scores' sizes times the score's sign.",
        formula="P = q k^T / sqrt(D)\nout = (sign(P) * softmax(|P|)) v",
        causal=True,
        bidirectional=True,
        cross=True,
        decode=True,
        gqa=True,
        padding=True,
        scores=False,
        cost=Cost(time=2, state=1),
        limits=(Limit("cog_attention"),),
        # Weights of both signs cancel, so that the output is smaller beside its error; scores near 0 change their sign.
        bfloat16=3.5,
    )

    def __init__(self, *, scale: float | None = None, block: int = 128) -> None:
        super().__init__()
        self.scale, self.block = scale, block
        self.at_least(block=1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        (H, N), M = q.shape[1:3], k.shape[2]
        G, size = k.shape[1], self.block
        wide = torch.promote_types(q.dtype, torch.float32)
        scaled = q.to(wide) * (q.shape[-1] ** -0.5 if self.scale is None else self.scale)
        i, j = call.q_at(N, M), call.k_at(M)
        ids = call.documents
        outs = []
        for start in range(0, N, size):
            rows = slice(start, start + size)
            # Tiles in which nobody sees anybody are left out; without given positions that is known from their slots.
            seen = [
                (
                    columns,
                    _seen(
                        i[:, rows], j[:, columns], call.causal, None if ids is None else (ids[:, rows], ids[:, columns])
                    ),
                )
                for first in range(0, M, size)
                for columns in [slice(first, first + size)]
                if not (call.causal and call.q_positions is None and first > M - N + start + size - 1)
            ]
            if call.q_positions is not None and size < M:
                seen = [(columns, mask) for columns, mask in seen if bool(mask.any())]
            given = (scaled[:, :, rows].unflatten(1, (G, H // G)), k, v, seen)
            # In training a block of queries is computed again for its gradients, so that its tiles are not kept.
            again = size < N and torch.is_grad_enabled()
            outs.append(checkpoint(_rows, *given, use_reentrant=False) if again else _rows(*given))
        return torch.cat(outs, 3).flatten(1, 2).to(v.dtype)


def _seen(i: Tensor, j: Tensor, causal: bool, documents: tuple[Tensor, Tensor] | None) -> Tensor:
    """Who sees whom [B|1, 1, 1, n, m]."""
    i, j = i[:, None, None, :, None], j[:, None, None, None, :]
    seen = (i >= 0) & (j >= 0)
    if documents is not None:
        own, other = documents
        seen = seen & (own[:, None, None, :, None] == other[:, None, None, None, :])
    return seen & (j <= i) if causal else seen


def _rows(q: Tensor, k: Tensor, v: Tensor, seen: list[tuple[slice, Tensor]]) -> Tensor:
    """The outputs [B, G, R, n, E] of queries [B, G, R, n, D], keys a tile at a time."""
    B, G, R, n, _ = q.shape
    # Sizes are never negative, so the running maximum may begin at 0; where a key is seen the total reaches 1.
    most, total = q.new_zeros(B, G, R, n, 1), q.new_zeros(B, G, R, n, 1)
    out = q.new_zeros(B, G, R, n, v.shape[-1])
    flat = q.flatten(2, 3)
    for columns, visible in seen:
        keys, values = k[:, :, columns].to(q.dtype), v[:, :, columns].to(q.dtype)
        scores = (flat @ keys.transpose(-1, -2)).unflatten(2, (R, n))
        sizes = scores.abs().masked_fill(~visible, -torch.inf)
        before, most = most, torch.maximum(most, sizes.detach().amax(-1, keepdim=True))
        fade, powers = (before - most).exp(), (sizes - most).exp()
        total = total * fade + powers.sum(-1, keepdim=True)
        signed = (powers * scores.sign()).flatten(2, 3)
        out = out * fade + (signed @ values).unflatten(2, (R, n))
    return out / torch.where(total > 0, total, 1.0)
