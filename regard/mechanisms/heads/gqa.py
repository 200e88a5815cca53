"""Grouped-query attention's projection."""

from __future__ import annotations

from typing import ClassVar

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.projection import LinearProjection
from regard.mechanisms.slot import divide


class GQA(LinearProjection):
    """Several query heads share the keys and values of one head.

    Shapes: tokens [B, N, dim] to q [B, heads, N, dim / heads], k and v [B, kv_heads, N, dim / heads]. `kv_heads`
    defaults to half the heads, or all of an odd number.
    Raises: ShapeError where `dim` is not a multiple of `heads`; ValueError where `kv_heads` does not divide `heads`.
    Source: "GQA", 2305.13245, section 2.2.
    """

    spec: ClassVar[Spec] = Spec(
        id="gqa",
        slot="projection",
        source=Source(
            "GQA: Training Generalized Multi-Query Transformer Models from Multi-Head Checkpoints",
            "2305.13245",
            "section 2.2",
            authors="Ainslie, Joshua and Lee-Thorp, James and de Jong, Michiel and Zemlyanskiy, Yury and "
            "Lebrón, Federico and Sanghai, Sumit",
        ),
        what="Several query heads share the keys and values of one head.",
        formula="q_h = x W_q^h,  k_g = y W_k^g,  v_g = y W_v^g,  head h reads group g = h // (H / G)",
        cross=True,
        cost=Cost(time=1, state=1),
        limits=(Limit("softmax"), Limit("softmax", kv_heads=1), Limit("softmax", kv_heads=4)),
        inert=("k.bias",),  # it adds the same to all of a query's scores, unless a position turns it
        variants=({"kv_heads": 1}, {"bias": True}),
    )

    def __init__(self, dim: int, heads: int, *, kv_heads: int | None = None, bias: bool = False) -> None:
        if kv_heads is None:
            kv_heads = heads // 2 if heads % 2 == 0 else heads
        super().__init__(dim, heads, kv_heads, divide("GQA", dim, heads), bias=bias)
