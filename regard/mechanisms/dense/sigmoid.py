"""Sigmoid attention: every key is weighed on its own."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.edits import Bias
from regard.edits import Sigmoid as SigmoidWeights
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer


class SigmoidAttention(Mixer):
    """Every query reads the sum of all values, each weighted by the sigmoid of its score and of a bias.

    `bias` is a number, such as -log of the length of training, or None for -log of how many keys the query sees.
    `learned=True` adds a learned number per head to it, 0 at first.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E].
    Raises: ValueError where `bias` is not finite.
    Source: "Theory, Analysis, and Best Practices for Sigmoid Self-Attention", 2409.04431, section 2.
    Differs from the paper: n in -log n counts the keys that a query may see, which is the length without a causal
    order; with one it grows along the sequence, so that later tokens change nothing and decoding gives the same.
    """

    spec: ClassVar[Spec] = Spec(
        id="sigmoid",
        slot="mixer",
        source=Source(
            "Theory, Analysis, and Best Practices for Sigmoid Self-Attention",
            "2409.04431",
            "section 2",
            authors="Ramapuram, Jason and Danieli, Federico and Dhekane, Eeshan and Weers, Floris and Busbridge, Dan "
            "and Ablin, Pierre and Likhomanenko, Tatiana and Digani, Jagrit and Gu, Zijin and Shidani, Amitis and "
            "Webb, Russ",
        ),
        what="Every query reads the sum of all values, each weighted by the sigmoid of its score.",
        formula="out_i = sum_j sigmoid(q_i k_j / sqrt(D) + b_i) v_j,  b_i = -log(how many keys i sees)",
        causal=True,
        bidirectional=True,
        cross=True,
        decode=True,
        gqa=True,
        padding=True,
        scores=True,
        cost=Cost(time=2, state=1),
        # Where all scores are 0 every weight is 1 / (1 + n), as softmax with a sink of 0 has it.
        limits=(Limit("sigmoid"), Limit("softmax_off_by_one", zero=("q.weight",))),
        variants=({"bias": -2.0}, {"learned": True}),
    )

    def __init__(self, heads: int, *, bias: float | None = None, learned: bool = False) -> None:
        super().__init__()
        if bias is not None and not math.isfinite(bias):
            raise ValueError(
                f"{type(self).__name__}.bias must be a finite number, or None for -log of the number of keys; got "
                f"{bias}. Type bias=-math.log(length)."
            )
        self.bias = bias
        self.offset = nn.Parameter(torch.zeros(heads)) if learned else None

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        fixed = 0.0 if self.bias is None else self.bias
        normaliser = SigmoidWeights(fixed if self.offset is None else self.offset + fixed)
        if self.bias is not None:
            return call.attend(q, k, v, normaliser=normaliser)
        seen = _count(call, q.shape[2], k.shape[2]).clamp(min=1)
        rows = -seen.to(torch.promote_types(q.dtype, torch.float32)).log()
        return call.attend(q, k, v, edits=(Bias(rows[:, None, :, None]),), normaliser=normaliser)


def _count(call: Call, N: int, M: int) -> Tensor:
    """How many keys each query sees, [B|1, N], without holding N x M of anything."""
    i, j = call.q_at(N, M), call.k_at(M)
    if call.documents is not None:
        real, starts = (j >= 0).long(), call.starts
        real = real.expand(starts.shape[0], -1)
        if not call.causal:
            return torch.zeros_like(real).scatter_add(1, starts, real).gather(1, starts)
        upto = real.cumsum(1)
        return upto - (upto - real).gather(1, starts)
    hidden = (j < 0).sum(-1, keepdim=True)
    if not call.causal:
        return (M - hidden).expand(-1, N)
    rows = max(i.shape[0], j.shape[0])
    places = j.sort(-1).values.expand(rows, -1).contiguous()
    return torch.searchsorted(places, i.expand(rows, -1).contiguous(), right=True) - hidden
