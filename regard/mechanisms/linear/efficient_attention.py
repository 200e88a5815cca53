"""Efficient attention: keys and values meet first, each key feature being one map over all tokens."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.edits import softmax
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer
from regard.ops import Memory, recur


class EfficientAttention(Mixer):
    """Each key feature weighs all tokens into one context vector, and each query mixes those of its head.

    `normalise="softmax"`: key features are softmaxes over the tokens, queries over their features; the implied weights
    are at least 0 and sum to 1. `"scaling"`: both are divided by the root of the number of tokens seen, which is plain
    attention with the weights q k / n. Neither has the scale 1 / sqrt(D).

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E]. Kept per head in decoding: D x (E + 1).
    Raises: ValueError for another `normalise`, and for `weights` of more keys than `most`.
    Source: "Efficient Attention: Attention with Linear Complexities", 1812.01243, section 3.
    Differs from the paper: it is the part between the projections, so that heads have the width of the layer's; the
    causal form, whose softmaxes run over the tokens so far, is not in it.
    """

    spec: ClassVar[Spec] = Spec(
        id="efficient_attention",
        slot="mixer",
        source=Source(
            "Efficient Attention: Attention with Linear Complexities",
            "1812.01243",
            "section 3",
            authors="Shen, Zhuoran and Zhang, Mingyuan and Zhao, Haiyu and Yi, Shuai and Li, Hongsheng",
        ),
        what="Key features are maps over all tokens that pool the values, and queries mix what was pooled.",
        formula="out_i = softmax over features(q_i) G,  G[f] = sum_j softmax over tokens(k[:, f])_j v_j\n"
        "causal: the softmax over tokens is over j <= i;  scaling: out_i = q_i (sum_j k_j v_j^T) / n",
        cross=True,
        cost=Cost(time=1, state=0),
        limits=(Limit("pooled_by_features"), Limit("scaled_products", normalise="scaling")),
        variants=({"normalise": "scaling"},),
    )

    def __init__(self, *, normalise: str = "softmax") -> None:
        super().__init__()
        self.normalise = normalise
        self.one_of("normalise", ("softmax", "scaling"))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        if not call.causal and call.documents is None:
            return self._whole(q, k, v, call.real)
        if self.normalise == "softmax":
            out = recur(_shares(q), k, v, normalise="softmax", causal=call.causal, real=call.real,
                        documents=call.documents)  # fmt: skip
            return out
        settings: dict[str, Any] = {"causal": call.causal, "real": call.real, "documents": call.documents}
        one = torch.ones(v.shape[0], 1, v.shape[2], 1, dtype=_wide(v), device=v.device)
        seen = recur(one, one, one, **settings).clamp(min=1.0)
        return recur(q.to(_wide(q)) / seen, k, v, **settings)

    def init_state(self, batch: int, held: Held) -> Memory | None:
        return None

    def step(self, state: Memory | None, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Memory]:
        if self.normalise == "softmax":
            return recur(_shares(q), k, v, normalise="softmax", real=call.real, state=state, keep=True)
        seen = (call.q_at(q.shape[2], k.shape[2]) + 1).clamp(min=1)[:, None, :, None]
        return recur(q.to(_wide(q)) / seen, k, v, real=call.real, state=state, keep=True)

    def maps(self, k: Tensor, real: Tensor | None = None) -> Tensor:
        """How each key feature [B, G, M, D] weighs the tokens, without an order: [B, G, D, M]; `real` [B|1, M]."""
        seen = None if real is None else real[:, None, None, :]
        return softmax.weights(k.transpose(-1, -2), seen)

    def weights(self, q: Tensor, k: Tensor, *, most: int = 4096) -> Tensor:
        """The implied weights [B, H, N, M] of softmaxes without an order, which the mixer never makes."""
        if k.shape[2] > most:
            raise ValueError(f"EfficientAttention.weights of {k.shape[2]} keys is large. Type most={k.shape[2]}.")
        return _read(_shares(q), self.maps(k))

    def _whole(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        """Where all queries see all that is real."""
        hidden = None if real is None else ~real[:, None, :, None]
        values = v.to(_wide(v)) if hidden is None else v.to(_wide(v)).masked_fill(hidden, 0.0)
        if self.normalise == "softmax":
            return _read(_shares(q), self.maps(k, real) @ values).to(v.dtype)
        keys = k.to(values.dtype) if hidden is None else k.to(values.dtype).masked_fill(hidden, 0.0)
        seen = k.shape[2] if real is None else real.sum(1)[:, None, None, None].clamp(min=1)
        return _read(q.to(values.dtype), keys.transpose(-1, -2) @ values / seen).to(v.dtype)


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _shares(q: Tensor) -> Tensor:
    """Queries as shares of their features."""
    return q.to(_wide(q)).softmax(-1)


def _read(q: Tensor, kept: Tensor) -> Tensor:
    """Queries [B, H, N, D] times what their group keeps, [B, G, D, E]: [B, H, N, E]."""
    return (q.unflatten(1, (kept.shape[1], -1)) @ kept.unsqueeze(2)).flatten(1, 2)
