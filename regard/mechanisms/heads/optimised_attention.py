"""Multi-head attention without a value projection."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.call import Call
from regard.mechanisms.projection import Projection, split, start
from regard.mechanisms.slot import divide


class OptimisedAttention(Projection):
    """Every head reads its own slice of the raw tokens as values: three quarters of the parameters.

    A value projection and the output map that follows it are two linear maps in a row, of which one is left out. With
    one head nothing is lost by it; with more, a head can no longer choose which features it reads.

    Shapes: tokens [B, N, dim] to q, k, v [B, heads, N, dim / heads].
    Raises: ShapeError where `dim` is not a multiple of `heads`.
    Source: "You Need to Pay Better Attention", 2403.01643, section 3.
    """

    spec: ClassVar[Spec] = Spec(
        id="optimised_attention",
        slot="projection",
        source=Source(
            "You Need to Pay Better Attention: Rethinking the Mathematics of Attention Mechanism",
            "2403.01643",
            "section 3",
            authors="Hosseini, Mehran and Hosseini, Peyman",
        ),
        what="Attention without a value projection: a head's values are its slice of the raw tokens.",
        formula="q_h = x W_q^h,  k_h = y W_k^h,  v_h = y[h D : (h + 1) D]",
        cross=True,
        gqa=False,
        cost=Cost(time=1, state=1),
        limits=(Limit("sliced_values"),),
        entry="pay_better_attention",
    )

    def __init__(self, dim: int, heads: int, *, bias: bool = True) -> None:
        super().__init__()
        width = divide("OptimisedAttention", dim, heads)
        self.dim, self.heads, self.kv_heads, self.head_dim, self.value_dim = dim, heads, heads, width, width
        self.q = nn.Linear(dim, dim, bias=bias)
        self.k = nn.Linear(dim, dim, bias=False)
        start(self)

    def queries(self, tokens: Tensor, call: Call) -> Tensor:
        return split(self.q(tokens), self.heads)

    def keep(self, memory: Tensor, call: Call) -> tuple[Tensor, ...]:
        return split(self.k(memory), self.heads), split(memory, self.heads)
