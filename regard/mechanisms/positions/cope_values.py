"""Contextual position encoding whose gates look at values."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.edits import Bias
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.counted import between, counts, wide
from regard.mechanisms.mixer import Mixer


class CoPEFromValues(Mixer):
    """CoPE whose gates compare queries with values, so that what is counted need not be what is looked for.

    Positions are read from `npos` embeddings by linear interpolation; counts beyond the last are the last.
    `gate_scale` multiplies the gates' products, 1 / sqrt(D) by default. Positions see no values, so this is a mixer.

    Shapes: q [B, H, N, D]; k and v [B, G, M, D]; values as wide as queries. Memory is O(N M) a head.
    Raises: ValueError where npos < 1; ShapeError where values are not as wide as queries.
    Source: "Contextual Position Encoding", 2405.18719, section 4, and its code.
    Differs from the paper: products are divided by sqrt(D) as in the code.
    """

    spec: ClassVar[Spec] = Spec(
        id="cope_values",
        slot="mixer",
        source=Source(
            "Contextual Position Encoding: Learning to Count What's Important",
            "2405.18719",
            "section 4",
            authors="Golovneva, Olga and Wang, Tianlu and Weston, Jason and Sukhbaatar, Sainbayar",
        ),
        what="A key's position is the number of values up to the query that the query's gates count.",
        formula="g_ij = sigmoid(q_i v_j / sqrt(D)),  p_ij = min(sum_{u = j .. i} g_iu, npos - 1)\n"
        "out_i = sum_j softmax_j((q_i k_j + q_i e[p_ij]) / sqrt(D)) v_j",
        bidirectional=False,
        scores=True,
        entry="cope",
        cost=Cost(time=2, state=1),
        limits=(Limit("softmax"), Limit("softmax", npos=1)),
        variants=({"npos": 3},),
    )

    def __init__(self, head_dim: int, *, npos: int = 64, gate_scale: float | None = None) -> None:
        super().__init__()
        self.npos = npos
        self.at_least(npos=1)
        self.gate_scale = head_dim**-0.5 if gate_scale is None else gate_scale
        self.table = nn.Parameter(torch.zeros(head_dim, npos))  # zero: it starts as attention without positions

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        width = self.table.shape[0]
        if not q.shape[-1] == v.shape[-1] == width:
            raise ShapeError(
                f"CoPEFromValues has queries and values of width {width}; got {q.shape[-1]} and {v.shape[-1]}. Type "
                "projection='mha', or mixer='softmax' with position='cope'."
            )
        values = v.repeat_interleave(q.shape[1] // v.shape[1], 1)
        gates = torch.sigmoid(wide(q) @ wide(values).mT * self.gate_scale)
        places = counts(gates, call.visible(q.shape[2], k.shape[2]), self.npos - 1)
        scores = between(wide(q) @ wide(self.table), places)
        return call.attend(q, k, v, edits=(Bias(scores / math.sqrt(width)),))
