"""Multi-query attention's projection."""

from __future__ import annotations

from typing import ClassVar

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.projection import LinearProjection
from regard.mechanisms.slot import divide


class MQA(LinearProjection):
    """All query heads share the keys and values of one head.

    Shapes: tokens [B, N, dim] to q [B, heads, N, dim / heads], k and v [B, 1, N, dim / heads].
    Raises: ShapeError where `dim` is not a multiple of `heads`.
    Source: "Fast Transformer Decoding: One Write-Head is All You Need", 1911.02150, section 3.
    """

    spec: ClassVar[Spec] = Spec(
        id="mqa",
        slot="projection",
        source=Source(
            "Fast Transformer Decoding: One Write-Head is All You Need",
            "1911.02150",
            "section 3",
            authors="Shazeer, Noam",
        ),
        what="All query heads share the keys and values of one head.",
        formula="q_h = x W_q^h,  k = y W_k,  v = y W_v",
        cross=True,
        cost=Cost(time=1, state=1),
        limits=(Limit("softmax"),),
        inert=("k.bias",),  # it adds the same to all of a query's scores, unless a position turns it
        variants=({"bias": True},),
    )

    def __init__(self, dim: int, heads: int, *, bias: bool = False) -> None:
        super().__init__(dim, heads, 1, divide("MQA", dim, heads), bias=bias)
