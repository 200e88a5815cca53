"""Softmax with a learned logit that a head may spend its weight on."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.edits import SoftmaxWithSinks as SinkWeights
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer


class SoftmaxWithSinks(Mixer):
    """Softmax attention with one more learned logit per head in the denominator, whose value is zero.

    The parameter `sinks` [H] begins at `start`; 0 is softmax-off-by-one, and far below zero is plain softmax.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E].
    Raises: ValueError where `start` is not finite.
    Source: "gpt-oss-120b & gpt-oss-20b Model Card", 2508.10925, section 2.
    """

    spec: ClassVar[Spec] = Spec(
        id="softmax_with_sinks",
        slot="mixer",
        source=Source("gpt-oss-120b & gpt-oss-20b Model Card", "2508.10925", "section 2", authors="OpenAI"),
        what="Softmax attention with one more learned logit per head in the denominator, whose value is zero.",
        formula="out_i = sum_j exp(s_ij) v_j / (exp(sink_h) + sum_j exp(s_ij)),  s = q k^T / sqrt(D)",
        causal=True,
        bidirectional=True,
        cross=True,
        decode=True,
        gqa=True,
        padding=True,
        scores=True,
        cost=Cost(time=2, state=1),
        limits=(Limit("softmax", start=-1e9), Limit("softmax_off_by_one")),
    )

    def __init__(self, heads: int, *, start: float = 0.0) -> None:
        super().__init__()
        if not math.isfinite(start):
            raise ValueError(
                f"{type(self).__name__}.start must be finite, so that the sinks can learn; got {start}. Type "
                "start=0.0, or mixer='softmax' for no sinks."
            )
        self.sinks = nn.Parameter(torch.full((heads,), start))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.attend(q, k, v, normaliser=SinkWeights(self.sinks))
