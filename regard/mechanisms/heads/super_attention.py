"""Efficient attention whose values are mixed over the tokens first."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.caches import beside
from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError, Unsupported
from regard.mechanisms.call import Call
from regard.mechanisms.projection import Projection, split, start
from regard.mechanisms.slot import divide


class SuperAttention(Projection):
    """Keys are slices of the raw tokens; values are slices of the tokens after one learned map from token to token.

    The map is one square matrix over `length` places, indexed by position; under a causal mask its lower triangle
    counts, and padding has no part in it. With `rank` it is I + U W^T, of 2 * length * rank numbers. `init="identity"`
    starts as efficient attention, `"random"` as a plain dense layer over the tokens, or with U and W both at random.
    Decoding keeps the raw tokens and the mixed ones, and a step mixes its own rows alone.

    Shapes: tokens [B, N, dim] to q, k, v [B, heads, N, dim / heads], N <= length; kept per token: 3 dim + 1 numbers.
    Raises: ShapeError where `dim` is not a multiple of `heads`; ValueError for a position of `length` or more, or a
    setting out of range; Unsupported where decoding does not keep every token.
    Source: "You Need to Pay Better Attention", 2403.01643, section 3.
    Differs from the paper: `rank` is not in it.
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
        "v_h = (W_A y)[h D : (h + 1) D],  W_A: length x length, lower triangular if causal\n"
        "rank r: W_A = I + U W^T,  U and W: length x r",
        cross=True,
        gqa=False,
        cost=Cost(time=2, state=1),
        limits=(
            Limit("sliced_keys_and_values"),
            Limit("sliced_keys_and_values", rank=3),
            Limit("aligned_values", init="random"),
            Limit("low_rank_values", init="random", rank=3),
        ),
        variants=({"rank": 2},),
        entry="pay_better_attention",
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        length: int = 2048,
        rank: int | None = None,
        init: str = "identity",
        bias: bool = True,
    ) -> None:
        super().__init__()
        width = divide("SuperAttention", dim, heads)
        self.length, self.rank, self.init = length, rank, init
        self.at_least(length=1, **({} if rank is None else {"rank": 1}))
        self.one_of("init", ("identity", "random"))
        self.latent, self.history = True, length
        self.dim, self.heads, self.kv_heads, self.head_dim, self.value_dim = dim, heads, heads, width, width
        self.q = nn.Linear(dim, dim, bias=bias)
        start(self)
        if rank is None:
            self.alignment = nn.Parameter(torch.eye(length))
            drawn = [self.alignment] if init == "random" else []
        else:
            # One of the two at random, so that the other gets a gradient.
            self.rows, self.columns = (nn.Parameter(torch.zeros(length, rank)) for _ in range(2))
            drawn = [self.rows, self.columns] if init == "random" else [self.columns]
        for parameter in drawn:
            nn.init.xavier_uniform_(parameter)

    def queries(self, tokens: Tensor, call: Call) -> Tensor:
        return split(self.q(tokens), self.heads)

    def keep(self, memory: Tensor, call: Call) -> tuple[Tensor, ...]:
        own, all_at, all_tokens = call.k_at(memory.shape[1]), call.k_at(memory.shape[1]), memory
        if call.before is not None and call.before_positions is not None:
            all_tokens, all_at = torch.cat([call.before, memory], 1), beside(call.before_positions, own)
        # Only decoding comes here, which is causal.
        mixed = self._mixed(own, all_tokens, all_at, True)
        at = own.expand(memory.shape[0], -1)
        return memory[:, None], mixed[:, None], at[:, None, :, None]

    def expand(self, kept: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        tokens, mixed, at = kept[0][:, 0], kept[1][:, 0], kept[2][:, 0, :, 0]
        if bool(((at >= 0).sum(1) != at.amax(1) + 1).any()):
            raise Unsupported(
                "SuperAttention reads every token before a step, and some are no longer kept. Use a cache without a "
                "size and mixer='softmax', or another mixer that keeps keys and values."
            )
        return split(tokens, self.heads), split(mixed, self.heads)

    def forward(self, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        tokens = call.memory
        at = call.k_at(tokens.shape[1])
        if call.documents is not None:
            at = torch.where(at < 0, -1, at - call.starts)  # a place is counted from its document's first token
        values = self._mixed(at, tokens, at, call.causal, call.documents)
        return self.queries(call.tokens, call), split(tokens, self.heads), split(values, self.heads)

    def align(self, weights: Tensor, *, causal: bool = False) -> None:
        """Set the map of the first n places, from token to token, to `weights` [n, n], row i for output i.

        Raises: ShapeError where it is not square or more than `length`; ValueError where it is for a causal model and
        has weights above the diagonal; Unsupported where the map is of low rank.
        """
        n = weights.shape[0]
        if weights.shape != (n, n) or n > self.length:
            raise ShapeError(
                f"SuperAttention.align takes weights [n, n], n <= {self.length}; got {list(weights.shape)}."
            )
        if causal and bool(weights.triu(1).any()):
            raise ValueError(
                "SuperAttention.align with causal=True needs a lower triangular map; got weights above the diagonal. "
                "Type weights.tril()."
            )
        if self.rank is not None:
            raise Unsupported(f"SuperAttention with rank={self.rank} has no whole map to set. Type rank=None.")
        with torch.no_grad():
            self.alignment[:n, :n] = weights

    def _mixed(
        self, at: Tensor, tokens: Tensor, tokens_at: Tensor, causal: bool, documents: Tensor | None = None
    ) -> Tensor:
        """Tokens [B, M, C] at positions [B|1, M], mixed for the positions `at` [B|1, N] by rows and columns: [B, N, C].

        `documents` [B|1, N] where N are the M.
        """
        last = int(max(at.max(), tokens_at.max())) if at.numel() else -1
        if last >= self.length:
            raise ValueError(
                f"SuperAttention.length={self.length} has no place for position {last}. Type length={last + 1}, or "
                "give fewer tokens."
            )
        i, j = at[:, :, None], tokens_at[:, None, :]
        seen = (i >= 0) & (j >= 0)
        if causal:
            seen = seen & (j <= i)
        if documents is not None:
            seen = seen & (documents[:, :, None] == documents[:, None, :])
        row, column = i.clamp_min(0), j.clamp_min(0)
        if self.rank is None:
            weights = self.alignment[row, column]
        else:
            weights = self.rows[row[:, :, 0]] @ self.columns[column[:, 0]].mT + (row == column)
        # What is padding may be anything, NaN too, and 0 * NaN would be NaN.
        return weights.masked_fill(~seen, 0) @ tokens.masked_fill((tokens_at < 0)[..., None], 0)
