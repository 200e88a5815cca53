"""The plain way back from heads to tokens."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.call import Call
from regard.mechanisms.merge import Merge
from regard.mechanisms.projection import join, start


class Concat(Merge):
    """The heads side by side, through one linear map.

    Shapes: [B, heads, N, value_dim] to [B, N, dim].
    Source: "Attention Is All You Need", 1706.03762, section 3.2.2.
    """

    spec: ClassVar[Spec] = Spec(
        id="concat",
        slot="merge",
        source=Source(
            "Attention Is All You Need",
            "1706.03762",
            "section 3.2.2",
            authors="Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and Uszkoreit, Jakob and Jones, Llion and "
            "Gomez, Aidan N. and Kaiser, Lukasz and Polosukhin, Illia",
        ),
        what="The heads side by side, through one linear map.",
        formula="y = concat(out_1, ..., out_H) W_o",
        cross=True,
        cost=Cost(time=1, state=0),
        limits=(Limit("softmax"),),
        variants=({"bias": True},),
    )

    def __init__(self, dim: int, heads: int, value_dim: int, *, bias: bool = False) -> None:
        super().__init__()
        self.out = nn.Linear(heads * value_dim, dim, bias=bias)
        start(self)

    def forward(self, out: Tensor, call: Call) -> Tensor:
        return self.out(join(out))
