"""Contextual position encoding."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.edits import Bias, Edit
from regard.mechanisms.call import Call
from regard.mechanisms.position import Position


class CoPE(Position):
    """A key's position is how many keys between it and the query the query's gates count, so heads can count words.

    Positions are fractions, and read from `npos` embeddings by linear interpolation; counts beyond the last are the
    last. `gate_scale` multiplies the gates' products, 1 / sqrt(D) by default, 1 in the paper's formula. `div` divides
    the embeddings' scores by sqrt(D) as the products are.

    Shapes: scores of queries [B, H, N, D] and keys [B, G, M, D]; keys are counted in the order they are kept in, and
    those that a cache has let go are not counted. Memory is O(N M) a head.
    Raises: ValueError where npos < 1.
    Source: "Contextual Position Encoding", 2405.18719, section 4, and its code.
    Differs from the paper: gates and embeddings' scores are divided by sqrt(D) as in the code; the paper's formula is
    gate_scale=1.0, div=False. Gates have no keys of their own.
    """

    spec: ClassVar[Spec] = Spec(
        id="cope",
        slot="position",
        source=Source(
            "Contextual Position Encoding: Learning to Count What's Important",
            "2405.18719",
            "section 4",
            authors="Golovneva, Olga and Wang, Tianlu and Weston, Jason and Sukhbaatar, Sainbayar",
        ),
        what="A key's position is the number of keys up to the query that the query's gates count.",
        formula="g_ij = sigmoid(q_i k_j / sqrt(D)),  p_ij = min(sum_{u = j .. i} g_iu, npos - 1)\n"
        "s_ij = (q_i k_j + q_i e[p_ij]) / sqrt(D),  e read between whole numbers along a line",
        bidirectional=False,
        scores=True,
        cost=Cost(time=2, state=0),
        limits=(Limit("softmax"), Limit("cope"), Limit("softmax", npos=1)),
        variants=({"npos": 3}, {"div": False, "gate_scale": 1.0}),
    )

    def __init__(self, head_dim: int, *, npos: int = 64, gate_scale: float | None = None, div: bool = True) -> None:
        super().__init__()
        self.npos, self.div = npos, div
        self.at_least(npos=1)
        self.gate_scale = head_dim**-0.5 if gate_scale is None else gate_scale
        self.table = nn.Parameter(torch.zeros(head_dim, npos))  # zero: it starts as attention without positions

    def edits(self, q: Tensor, k: Tensor, call: Call) -> tuple[Edit, ...]:
        wide = torch.promote_types(q.dtype, torch.float32)
        N, M = q.shape[2], k.shape[2]
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        gates = torch.sigmoid(q.to(wide) @ k.to(wide).mT * self.gate_scale)
        gates = gates.masked_fill(~call.visible(N, M), 0.0)
        places = gates.flip(-1).cumsum(-1).flip(-1).clamp(max=self.npos - 1)
        whole = q.to(wide) @ self.table.to(wide)
        if not self.div:
            whole = whole * math.sqrt(q.shape[-1])
        low = places.detach().nan_to_num(0.0).floor()  # a NaN is no index; it goes on in the weight between
        between = places - low
        below, above = low.long(), (low.long() + 1).clamp(max=self.npos - 1)
        scores = whole.gather(-1, below) * (1 - between) + whole.gather(-1, above) * between
        return (Bias(scores / math.sqrt(q.shape[-1])),)
