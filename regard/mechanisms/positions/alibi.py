"""Attention with linear biases."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from regard.core import Cost, Limit, Source, Spec
from regard.edits import ALiBi as Slopes
from regard.edits import Edit
from regard.mechanisms.call import Call
from regard.mechanisms.position import Position


class ALiBi(Position):
    """Scores fall in a straight line with the distance, steeply in some heads and gently in others.

    Shapes: scores of queries [B, H, N, D] and keys [B, G, M, D].
    Raises: ValueError where there are no heads.
    Source: "Train Short, Test Long", 2108.12409, section 3; slopes for other than 2^n heads as in its code.
    Differs from the paper: keys after the query are penalised too, by the same distance (the paper is causal).
    """

    spec: ClassVar[Spec] = Spec(
        id="alibi",
        slot="position",
        source=Source(
            "Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation",
            "2108.12409",
            "section 3",
            authors="Press, Ofir and Smith, Noah A. and Lewis, Mike",
        ),
        what="Scores fall in a straight line with the distance, at a slope of each head's own.",
        formula="s_ij = q_i k_j / sqrt(D) - m_h |i - j|,  m_h = 2^(-8 h / H), h = 1 .. H",
        cross=True,
        scores=True,
        cost=Cost(time=1, state=0),
        limits=(Limit("alibi"),),
    )

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.edit = Slopes(heads=heads)

    def edits(self, q: Tensor, k: Tensor, call: Call) -> tuple[Edit, ...]:
        return (self.edit,)
