"""Softmax attention over the nearest keys alone."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from regard.core import Cost, Limit, Source, Spec
from regard.masks import window
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer


class SlidingWindow(Mixer):
    """Every query reads the `window` keys up to and including its own position; both sides where it is not causal.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E].
    Raises: ValueError where window < 1.
    Source: "Longformer: The Long-Document Transformer", 2004.05150, section 3.1.
    Differs from the paper: the window counts the query's own position and the keys before it, and as many keys follow
    where attention is not causal; the paper's w is both sides together. No dilation and no global tokens.
    """

    spec: ClassVar[Spec] = Spec(
        id="sliding_window",
        slot="mixer",
        source=Source(
            "Longformer: The Long-Document Transformer",
            "2004.05150",
            "section 3.1",
            authors="Beltagy, Iz and Peters, Matthew E. and Cohan, Arman",
        ),
        what="Every query reads the keys within a fixed distance.",
        formula="out_i = sum_j softmax_j(q_i k_j / sqrt(D)) v_j  over  i - window < j <= i  (causal),\n"
        "                                                    |i - j| < window  (both sides)",
        causal=True,
        bidirectional=True,
        cross=False,
        decode=True,
        gqa=True,
        padding=True,
        scores=True,
        cost=Cost(time=1, state=1),
        limits=(Limit("softmax", window=10**6),),
        variants=({"window": 3},),
    )

    def __init__(self, *, window: int = 256) -> None:
        super().__init__()
        self.window = window
        self.at_least(window=1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        ahead = 0 if call.causal else self.window - 1
        return call.attend(q, k, v, where=window(self.window, ahead))
