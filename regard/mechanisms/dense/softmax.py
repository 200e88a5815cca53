"""Softmax attention over every key that the call allows."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer


class Softmax(Mixer):
    """Every query reads the mean of all values, weighted by the softmax of its scaled scores.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E]. `scale` defaults to D ** -0.5.
    Source: "Attention Is All You Need", 1706.03762, section 3.2.1.
    """

    spec: ClassVar[Spec] = Spec(
        id="softmax",
        slot="mixer",
        source=Source(
            "Attention Is All You Need",
            "1706.03762",
            "section 3.2.1",
            authors="Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and Uszkoreit, Jakob and Jones, Llion and "
            "Gomez, Aidan N. and Kaiser, Lukasz and Polosukhin, Illia",
        ),
        what="Every query reads all values, weighted by the softmax of its scores.",
        formula="out = softmax(q k^T / sqrt(D)) v",
        causal=True,
        bidirectional=True,
        cross=True,
        decode=True,
        gqa=True,
        padding=True,
        scores=True,
        cost=Cost(time=2, state=1),
        limits=(Limit("softmax"),),
    )

    def __init__(self, *, scale: float | None = None) -> None:
        super().__init__()
        self.scale = scale

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.attend(q, k, v, scale=self.scale)
