"""Multi-head attention without key and value projections."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.call import Call
from regard.mechanisms.projection import Projection, split, start
from regard.mechanisms.slot import divide


class EfficientSlices(Projection):
    """Every head reads its own slice of the raw tokens as keys and as values: half of the parameters.

    Keys and values are one tensor, so decoding keeps the raw tokens alone: half of multi-head attention's state.

    Shapes: tokens [B, N, dim] to q, k, v [B, heads, N, dim / heads]; kept per token: dim numbers.
    Raises: ShapeError where `dim` is not a multiple of `heads`.
    Source: "You Need to Pay Better Attention", 2403.01643, section 3.
    """

    spec: ClassVar[Spec] = Spec(
        id="efficient_slices",
        slot="projection",
        source=Source(
            "You Need to Pay Better Attention: Rethinking the Mathematics of Attention Mechanism",
            "2403.01643",
            "section 3",
            authors="Hosseini, Mehran and Hosseini, Peyman",
        ),
        what="Attention with a query projection alone: a head's keys and values are its slice of the raw tokens.",
        formula="q_h = x W_q^h,  k_h = v_h = y[h D : (h + 1) D]",
        cross=True,
        gqa=False,
        cost=Cost(time=1, state=1),
        limits=(Limit("sliced_keys_and_values"),),
        entry="pay_better_attention",
    )

    def __init__(self, dim: int, heads: int, *, bias: bool = True) -> None:
        super().__init__()
        width = divide("EfficientSlices", dim, heads)
        self.latent = True
        self.dim, self.heads, self.kv_heads, self.head_dim, self.value_dim = dim, heads, heads, width, width
        self.q = nn.Linear(dim, dim, bias=bias)
        start(self)

    def queries(self, tokens: Tensor, call: Call) -> Tensor:
        return split(self.q(tokens), self.heads)

    def keep(self, memory: Tensor, call: Call) -> tuple[Tensor, ...]:
        return (memory[:, None],)

    def expand(self, kept: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        sliced = split(kept[0][:, 0], self.heads)
        return sliced, sliced
