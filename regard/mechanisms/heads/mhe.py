"""One projection for all heads, told apart by an embedding each."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.call import Call
from regard.mechanisms.projection import Projection, start
from regard.mechanisms.slot import divide


class MultipleHeadEmbeddings(Projection):
    """All heads share one query, key and value of one head's width; an embedding per head shifts or scales them.

    `variant="mul"` scales by one plus the embedding, `"add"` adds it. Without a rotary position the key embedding of
    `"add"` changes no output, and its value embedding acts as a bias before the last linear map. Decoding keeps the
    shared key and value alone.

    Shapes: tokens [B, N, dim] to q, k, v [B, heads, N, dim / heads]; kept per token: 2 dim / heads numbers.
    Raises: ShapeError where `dim` is not a multiple of `heads`; ValueError for an unknown variant.
    Source: "Pit One Against Many", 2310.07911, section 3.
    """

    spec: ClassVar[Spec] = Spec(
        id="mhe",
        slot="projection",
        source=Source(
            "Pit One Against Many: Leveraging Attention-head Embeddings for Parameter-efficient Multi-head Attention",
            "2310.07911",
            "section 3",
            authors="Xue, Huiyin and Aletras, Nikolaos",
        ),
        what="All heads share one projection and differ by an embedding each, which scales or shifts it.",
        formula="q = x W_q,  k = y W_k,  v = y W_v,  one head wide\n"
        "mul: q_h = q * (1 + e_h^q),  k_h = k * (1 + e_h^k),  v_h = v * (1 + e_h^v)\n"
        "add: q_h = q + e_h^q,  k_h = k + e_h^k,  v_h = v + e_h^v",
        cross=True,
        gqa=False,
        cost=Cost(time=1, state=1),
        limits=(
            Limit("one_head_copied", zero=("scale_q", "scale_k", "scale_v")),
            Limit("one_head_copied", zero=("shift_q", "shift_k", "shift_v"), variant="add"),
            Limit("scaled_heads"),
            Limit("shifted_heads", variant="add"),
        ),
        inert=("shift_k", "k.bias"),  # they add the same to all of a query's scores, unless a position turns them
        variants=({"variant": "add"}, {"bias": True}),
    )

    def __init__(self, dim: int, heads: int, *, variant: str = "mul", bias: bool = False) -> None:
        super().__init__()
        width = divide("MultipleHeadEmbeddings", dim, heads)
        self.variant = variant
        self.one_of("variant", ("mul", "add"))
        self.latent = True
        self.dim, self.heads, self.kv_heads, self.head_dim, self.value_dim = dim, heads, heads, width, width
        self.q = nn.Linear(dim, width, bias=bias)
        self.k = nn.Linear(dim, width, bias=bias)
        self.v = nn.Linear(dim, width, bias=bias)
        start(self)
        for which in "qkv":
            # Heads with one embedding would be one head, so they start apart.
            self.register_parameter(self._name(which), nn.Parameter(0.02 * torch.randn(heads, width)))

    def queries(self, tokens: Tensor, call: Call) -> Tensor:
        return self._told_apart(self.q(tokens)[:, None], "q")

    def keep(self, memory: Tensor, call: Call) -> tuple[Tensor, ...]:
        return self.k(memory)[:, None], self.v(memory)[:, None]

    def expand(self, kept: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        k, v = kept
        return self._told_apart(k, "k"), self._told_apart(v, "v")

    def folded(self, merge: Tensor, bias: Tensor | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The state dicts of `MQA(bias=True)` and `Concat(bias=True)` that do the same with one shared key and value.

        What scales or shifts keys goes to the queries, and what scales or shifts values to the last map. It holds
        without a position that turns: turned keys of one head would have to be those of every head.

        Shapes: merge [C, heads * head_dim], the last map's weight; bias [C], its bias.
        """
        with torch.no_grad():
            e_q, e_k, e_v = (self.get_parameter(self._name(which)) for which in "qkv")
            zeros = self.q.weight.new_zeros(self.head_dim)
            own = zeros if self.q.bias is None else self.q.bias
            ends = merge.new_zeros(merge.shape[0]) if bias is None else bias.clone()
            if self.variant == "mul":
                scale = (1 + e_q) * (1 + e_k)
                q, q_bias = (scale[..., None] * self.q.weight).flatten(0, 1), (scale * own).flatten()
                merge = merge * (1 + e_v).flatten()
            else:
                q, q_bias = self.q.weight.repeat(self.heads, 1), (e_q + own).flatten()
                ends = ends + merge @ e_v.flatten()
            state = {"q.weight": q, "q.bias": q_bias}
            for name, part in (("k", self.k), ("v", self.v)):
                state[f"{name}.weight"] = part.weight.clone()
                state[f"{name}.bias"] = zeros.clone() if part.bias is None else part.bias.clone()
            return state, {"out.weight": merge.clone(), "out.bias": ends}

    def _told_apart(self, x: Tensor, which: str) -> Tensor:
        """[B, 1, N, D] to [B, heads, N, D]."""
        own = self.get_parameter(self._name(which))[:, None]
        return x * (1 + own) if self.variant == "mul" else x + own

    def _name(self, which: str) -> str:
        return f"{'scale' if self.variant == 'mul' else 'shift'}_{which}"
