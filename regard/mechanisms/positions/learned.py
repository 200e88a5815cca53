"""One learned vector per position."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.position import Position


class LearnedPosition(Position):
    """A learned vector for each of `length` positions is added to the token that stands there.

    Shapes: tokens [B, N, dim]; as they came.
    Raises: ValueError where length < 1, or a token stands at `length` or later.
    Source: "Convolutional Sequence to Sequence Learning", 1705.03122, section 3.1; in attention as in BERT,
    1810.04805, section 3.
    """

    spec: ClassVar[Spec] = Spec(
        id="learned",
        slot="position",
        source=Source(
            "Convolutional Sequence to Sequence Learning",
            "1705.03122",
            "section 3.1",
            authors="Gehring, Jonas and Auli, Michael and Grangier, David and Yarats, Denis and Dauphin, Yann N.",
        ),
        what="A learned vector per position is added to the tokens.",
        formula="x'_n = x_n + P_n",
        cross=True,
        cost=Cost(time=1, state=0),
        limits=(Limit("learned"), Limit("softmax", zero=("position.table",))),
    )

    def __init__(self, dim: int, *, length: int = 2048) -> None:
        super().__init__()
        self.length = length
        self.at_least(length=1)
        self.table = nn.Parameter(torch.empty(length, dim))
        nn.init.normal_(self.table, std=0.02)

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        last = int(positions.max()) if positions.numel() else 0
        if last >= self.length:
            raise ValueError(
                f"LearnedPosition has vectors for positions 0 to {self.length - 1}; got position {last}. "
                f"Type length={last + 1} or more, or a position without an end, such as position='sinusoidal'."
            )
        return tokens + self.table[positions.clamp(min=0)]
