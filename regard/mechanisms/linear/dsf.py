"""Normalised attention: linear attention over a normaliser that is read from the query's token."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer
from regard.ops import Memory, recur

LEAST = 1e-6  # what is divided by is never less


class NormalisedAttention(Mixer):
    """Linear attention divided by a positive number for each head and token, which a map of the token itself gives.

    `normaliser` makes it positive: "exp", "softplus" or "sigmoid". `features` are of queries and keys: "elu" is
    elu(x) + 1, "identity" leaves them.

    Shapes: q [B, H, N, D]; k [B, G, N, D]; v [B, G, N, E]; result [B, H, N, E]; a state of G D E numbers.
    Raises: ValueError for an unknown normaliser or features; ShapeError for another number of query heads.
    Source: "Understanding the differences in Foundation Models", 2405.15731, section 4.
    Differs from the paper: a bias in the map, zero at the start, and weights that start at zero, so that it starts as
    linear attention over a constant; the normaliser is at least 1e-6; the form over both sides is not in it.
    """

    spec: ClassVar[Spec] = Spec(
        id="dsf",
        slot="mixer",
        source=Source(
            "Understanding the differences in Foundation Models: Attention, State Space Models, and Recurrent Neural "
            "Networks",
            "2405.15731",
            "section 4",
            authors="Sieber, Jerome and Amo Alonso, Carmen and Didier, Alexandre and Zeilinger, Melanie N. and "
            "Orvieto, Antonio",
        ),
        what="Linear attention over a normaliser that is read from the query's own token.",
        formula="out_t = sum_s f(q_t) . f(k_s) v_s / eta(x_t)\n"
        "eta(x) = exp(x w + b), softplus(x w + b) or sigmoid(x w + b)",
        cost=Cost(time=1, state=0),
        limits=(
            Limit("normalised_attention"),
            Limit("normalised_attention_softplus", normaliser="softplus"),
            Limit("normalised_attention_sigmoid", normaliser="sigmoid"),
            Limit("sum_of_products", features="identity"),
        ),
        variants=({"normaliser": "softplus"}, {"normaliser": "sigmoid", "features": "identity"}),
    )

    def __init__(self, dim: int, heads: int, *, normaliser: str = "exp", features: str = "elu") -> None:
        super().__init__()
        self.heads, self.normaliser, self.features = heads, normaliser, features
        self.one_of("normaliser", ("exp", "softplus", "sigmoid"))
        self.one_of("features", ("elu", "identity"))
        self.eta = nn.Linear(dim, heads)
        nn.init.zeros_(self.eta.weight)
        nn.init.zeros_(self.eta.bias)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return self.step(None, q, k, v, call)[0]

    def init_state(self, batch: int, held: Held) -> Memory | None:
        return None

    def step(self, state: Memory | None, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Memory]:
        if q.shape[1] != self.heads:
            H = q.shape[1]
            raise ShapeError(f"NormalisedAttention was made for {self.heads} query heads; got {H}. Type heads={H}.")
        wide = torch.promote_types(q.dtype, torch.float32)
        out, after = recur(
            self._mapped(q) * self.share(call.tokens),
            self._mapped(k),
            v.to(wide),
            state=state,
            causal=call.causal,
            real=call.real,
            documents=call.documents,
            keep=True,
        )
        return out.to(v.dtype), after

    def share(self, tokens: Tensor) -> Tensor:
        """One over the normaliser: [B, N, dim] to [B, heads, N, 1]."""
        raw = self.eta(tokens).transpose(1, 2)[..., None]
        raw = raw.to(torch.promote_types(raw.dtype, torch.float32))
        if self.normaliser == "exp":
            return (-raw.clamp(min=math.log(LEAST))).exp()
        made = F.softplus(raw) if self.normaliser == "softplus" else torch.sigmoid(raw)
        return 1 / made.clamp(min=LEAST)

    def _mapped(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        return F.elu(wide) + 1 if self.features == "elu" else wide
