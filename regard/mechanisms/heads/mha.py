"""Multi-head attention's projection."""

from __future__ import annotations

from typing import ClassVar

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.projection import LinearProjection
from regard.mechanisms.slot import divide


class MHA(LinearProjection):
    """Every head has queries, keys and values of its own, from one linear map each.

    Shapes: tokens [B, N, dim] to q, k, v [B, heads, N, dim / heads].
    Raises: ShapeError where `dim` is not a multiple of `heads`.
    Source: "Attention Is All You Need", 1706.03762, section 3.2.2.
    """

    spec: ClassVar[Spec] = Spec(
        id="mha",
        slot="projection",
        source=Source(
            "Attention Is All You Need",
            "1706.03762",
            "section 3.2.2",
            authors="Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and Uszkoreit, Jakob and Jones, Llion and "
            "Gomez, Aidan N. and Kaiser, Lukasz and Polosukhin, Illia",
        ),
        what="Queries, keys and values of its own for every head.",
        formula="q_h = x W_q^h,  k_h = y W_k^h,  v_h = y W_v^h",
        cross=True,
        gqa=False,
        cost=Cost(time=1, state=1),
        limits=(Limit("softmax"),),
        inert=("k.bias",),  # it adds the same to all of a query's scores, unless a position turns it
        variants=({"bias": True},),
    )

    def __init__(self, dim: int, heads: int, *, bias: bool = False) -> None:
        super().__init__(dim, heads, heads, divide("MHA", dim, heads), bias=bias)
