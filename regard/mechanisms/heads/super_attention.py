"""Efficient attention whose values are mixed over the tokens first."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.errors import Unsupported
from regard.mechanisms.call import Call
from regard.mechanisms.projection import Projection, split, start
from regard.mechanisms.slot import divide


class SuperAttention(Projection):
    """Keys are slices of the raw tokens; values are slices of the tokens after one learned map from token to token.

    The map is one square matrix over `length` places, indexed by position; under a causal mask its lower triangle
    counts, and padding has no part in it. `init="identity"` starts as efficient attention, `"random"` as a plain dense
    layer over the tokens. Decoding keeps the raw tokens alone, and mixes all of them anew at every step.

    Shapes: tokens [B, N, dim] to q, k, v [B, heads, N, dim / heads], N <= length; kept per token: dim + 1 numbers.
    Raises: ShapeError where `dim` is not a multiple of `heads`; ValueError for a position of `length` or more, or a
    setting out of range; Unsupported where decoding does not keep every token.
    Source: "You Need to Pay Better Attention", 2403.01643, section 3.
    """

    spec: ClassVar[Spec] = Spec(
        id="super_attention",
        slot="projection",
        source=Source(
            "You Need to Pay Better Attention: Rethinking the Mathematics of Attention Mechanism",
            "2403.01643",
            "section 3",
            authors="Hosseini, Mehran and Hosseini, Peyman",
        ),
        what="Attention with a query projection alone, whose values are mixed by a learned matrix over the tokens.",
        formula="q_h = x W_q^h,  k_h = y[h D : (h + 1) D]\n"
        "v_h = (W_A y)[h D : (h + 1) D],  W_A: length x length, lower triangular if causal",
        cross=True,
        gqa=False,
        cost=Cost(time=2, state=1),
        limits=(Limit("sliced_keys_and_values"), Limit("aligned_values", init="random")),
        entry="pay_better_attention",
    )

    def __init__(self, dim: int, heads: int, *, length: int = 2048, init: str = "identity", bias: bool = True) -> None:
        super().__init__()
        width = divide("SuperAttention", dim, heads)
        self.length, self.init = length, init
        self.at_least(length=1)
        self.one_of("init", ("identity", "random"))
        self.latent = True
        self.dim, self.heads, self.kv_heads, self.head_dim, self.value_dim = dim, heads, heads, width, width
        self.q = nn.Linear(dim, dim, bias=bias)
        start(self)
        self.alignment = nn.Parameter(torch.eye(length))
        if init == "random":
            nn.init.xavier_uniform_(self.alignment)

    def queries(self, tokens: Tensor, call: Call) -> Tensor:
        return split(self.q(tokens), self.heads)

    def keep(self, memory: Tensor, call: Call) -> tuple[Tensor, ...]:
        at = call.k_at(memory.shape[1]).expand(memory.shape[0], -1)
        return memory[:, None], at[:, None, :, None]

    def expand(self, kept: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        # Only decoding comes here, which is causal.
        tokens, at = kept[0][:, 0], kept[1][:, 0, :, 0]
        if bool(((at >= 0).sum(1) != at.amax(1) + 1).any()):
            raise Unsupported(
                "SuperAttention mixes every token before a step, and some are no longer kept. Use a cache without a "
                "size and mixer='softmax', or another mixer that keeps keys and values."
            )
        return split(tokens, self.heads), split(self._mixed(tokens, at, True), self.heads)

    def forward(self, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        tokens = call.memory
        values = self._mixed(tokens, call.k_at(tokens.shape[1]), call.causal)
        return self.queries(call.tokens, call), split(tokens, self.heads), split(values, self.heads)

    def _mixed(self, tokens: Tensor, at: Tensor, causal: bool) -> Tensor:
        """Tokens [B, M, C] at positions [B|1, M], mixed by the rows and columns of those positions."""
        last = int(at.max()) if at.numel() else -1
        if last >= self.length:
            raise ValueError(
                f"SuperAttention.length={self.length} has no place for position {last}. Type length={last + 1}, or "
                "give fewer tokens."
            )
        i, j = at[:, :, None], at[:, None, :]
        seen = (i >= 0) & (j >= 0)
        if causal:
            seen = seen & (j <= i)
        row, column = i.clamp_min(0), j.clamp_min(0)
        real = (at >= 0)[..., None]
        # What is padding may be anything, NaN too, and 0 * NaN would be NaN.
        return self.alignment[row, column].masked_fill(~seen, 0) @ tokens.masked_fill(~real, 0)
