"""Contextual position encoding."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.edits import Bias, Edit
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.counted import between, counts, wide
from regard.mechanisms.position import Position
from regard.mechanisms.projection import start


class CoPE(Position):
    """A key's position is how many keys between it and the query the query's gates count, so heads can count words.

    Positions are fractions, and read from `npos` embeddings by linear interpolation; counts beyond the last are the
    last. `gate_scale` multiplies the gates' products, 1 / sqrt(D) by default, 1 in the paper's formula. `div` divides
    the embeddings' scores by sqrt(D) as the products are. `sep_key` gives the gates keys of their own. `relative` adds
    that many embeddings of ordinary distances, of which the last serves all beyond. Layers share embeddings where they
    are given the same module.

    Shapes: scores of queries [B, H, N, D] and keys [B, G, M, D]; keys are counted in the order they are kept in, and
    those that a cache has let go are not counted. Memory is O(N M) a head.
    Raises: ValueError where npos < 1 or relative < 0; ShapeError for heads of another width.
    Source: "Contextual Position Encoding", 2405.18719, section 4, and its code.
    Differs from the paper: gates and embeddings' scores are divided by sqrt(D) as in the code; the paper's formula is
    gate_scale=1.0, div=False. The gates' own keys are a linear map of a head's keys, one for all heads, where the paper
    makes them from the tokens; gates from values are `cope_values`.
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
        "s_ij = (q_i k_j + q_i e[p_ij]) / sqrt(D),  e read between whole numbers along a line\n"
        "sep_key: g_ij = sigmoid(q_i W k_j / sqrt(D));  relative: e[p_ij] + r[min(i - j, relative - 1)]",
        bidirectional=False,
        scores=True,
        cost=Cost(time=2, state=0),
        limits=(Limit("softmax"), Limit("cope"), Limit("softmax", npos=1)),
        variants=({"npos": 3}, {"div": False, "gate_scale": 1.0}, {"sep_key": True, "relative": 4}),
    )

    def __init__(
        self,
        head_dim: int,
        *,
        npos: int = 64,
        gate_scale: float | None = None,
        div: bool = True,
        sep_key: bool = False,
        relative: int = 0,
    ) -> None:
        super().__init__()
        self.npos, self.div, self.sep_key, self.relative = npos, div, sep_key, relative
        self.at_least(npos=1, relative=0)
        self.gate_scale = head_dim**-0.5 if gate_scale is None else gate_scale
        self.table = nn.Parameter(torch.zeros(head_dim, npos))  # zero: it starts as attention without positions
        if relative:
            self.distances = nn.Parameter(torch.zeros(head_dim, relative))
        if sep_key:
            self.gate = nn.Linear(head_dim, head_dim, bias=False)
            start(self)

    def edits(self, q: Tensor, k: Tensor, call: Call) -> tuple[Edit, ...]:
        (N, D), M = q.shape[2:], k.shape[2]
        if self.table.shape[0] != D:
            raise ShapeError(
                f"CoPE has embeddings for heads of width {self.table.shape[0]}; got queries of width {D}. "
                f"Type CoPE(head_dim={D})."
            )
        keys = self.gate(k) if self.sep_key else k
        keys = keys.repeat_interleave(q.shape[1] // k.shape[1], 1)
        gates = torch.sigmoid(wide(q) @ wide(keys).mT * self.gate_scale)
        scores = between(wide(q) @ wide(self.table), counts(gates, call.visible(N, M), self.npos - 1))
        if self.relative:
            far = call.q_at(N, M)[:, None, :, None] - call.k_at(M)[:, None, None, :]
            far = far.clamp(0, self.relative - 1).expand(*q.shape[:2], N, M)
            scores = scores + (wide(q) @ wide(self.distances)).gather(-1, far)
        return (Bias(scores / math.sqrt(D) if self.div else scores),)
