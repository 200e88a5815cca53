"""TransNormer's attention layer: Lightning Attention between gates and a norm."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.call import Call
from regard.mechanisms.fading import rates, staying
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.slot import divide
from regard.ops import Memory, recur


class LightningAttention(Layer):
    """Linear attention of swish queries and keys that fades, one rate for each head; what is read is normed and gated.

    `slopes` are rates of forgetting, for all heads or one for each, by default ALiBi's; 0 forgets nothing. With
    `layers`, the number of layers in the stack, later layers forget less and the last hardly at all. `lrpe=True` turns
    queries and keys in the stack's first layer by learned angles per token. `values` is "linear", or "swish" as
    released. `gate` is the width of the gate's narrow map, by default a head's.

    Shapes: tokens [B, N, dim] to [B, N, dim]; a state of heads D D numbers, twice that with `lrpe`.
    Raises: ShapeError where `dim` is not a multiple of `heads`; ValueError for slopes below 0 or not one for each head,
    another setting out of range, or a call from a layer beyond `layers`.
    Source: "Various Lengths, Constant Speed", 2405.17381, sections 3 and 4.
    Differs from the paper: the layer alone, so norm, residual and `SimpleGatedUnit` are the stack's; gradients come
    from differentiating the blocks; forgetting is counted in tokens, whatever positions are given.
    """

    spec: ClassVar[Spec] = Spec(
        id="lightning_attention",
        slot="layer",
        source=Source(
            "Various Lengths, Constant Speed: Efficient Language Modeling with Lightning Attention",
            "2405.17381",
            "sections 3 and 4",
            authors="Qin, Zhen and Sun, Weigao and Li, Dong and Shen, Xuyang and Sun, Weixuan and Zhong, Yiran",
        ),
        what="Linear attention that fades, with swish queries and keys, normed and gated.",
        formula="q = swish(x W_q),  k = swish(x W_k),  v = x W_v\n"
        "S_t = exp(-s) S_{t-1} + k_t v_t^T,  o_t = q_t S_t\n"
        "out = (rms(o) * sigmoid(x W_1 W_2)) W_o\n"
        "s = slope of the head * (1 - layer / (layers - 1) + 1e-5)",
        bidirectional=False,
        gqa=False,
        cost=Cost(time=1, state=0),
        limits=(
            Limit("transnormer"),
            Limit("transnormer_lasting", slopes=0.0),
            Limit("transnormer_turned", lrpe=True),
            Limit("transnormer_released", values="swish"),
        ),
        variants=({"lrpe": True, "layers": 3}, {"slopes": 0.0, "values": "swish"}),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        slopes: float | tuple[float, ...] | None = None,
        layers: int | None = None,
        lrpe: bool = False,
        values: str = "linear",
        gate: int | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        width = divide("LightningAttention", dim, heads)
        self.dim, self.heads, self.slopes, self.layers = dim, heads, slopes, layers
        self.lrpe, self.values, self.gate, self.eps = lrpe, values, width if gate is None else gate, eps
        self.at_least(gate=1)
        self.one_of("values", ("linear", "swish"))
        if layers is not None:
            self.at_least(layers=1)
        if not eps > 0:
            raise ValueError(f"LightningAttention.eps must be above 0; got {eps}. Type eps=1e-6.")
        self.rates = rates("LightningAttention", slopes, heads)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.gate_in, self.gate_out = nn.Linear(dim, self.gate, bias=False), nn.Linear(self.gate, dim, bias=False)
        start(self)
        if lrpe:
            self.theta = nn.Parameter((10000.0 ** (-torch.arange(width) / width)).repeat(heads, 1))

    def attend(self, call: Call) -> Tensor:
        return self.advance(None, call)[0]

    def begin(self, batch: int) -> Memory | None:
        return None

    def advance(self, inner: Memory | None, call: Call) -> tuple[Tensor, Memory]:
        x = call.tokens
        q, k, v = split(F.silu(self.q(x)), self.heads), split(F.silu(self.k(x)), self.heads), self.v(x)
        v = split(F.silu(v) if self.values == "swish" else v, self.heads)
        if self.lrpe and call.layer == 0:
            at = call.q_at(x.shape[1], x.shape[1])
            q, k = self._turned(q, at), self._turned(k, at)
        read, after = recur(
            q,
            k,
            v,
            decay=self.decay(call.layer, q),
            state=inner,
            real=call.real,
            documents=call.documents,
            keep=True,
        )
        gate = torch.sigmoid(self.gate_out(self.gate_in(x)))
        return self.out(simple_rms_norm(join(read), self.eps) * gate), after

    def decay(self, layer: int, like: Tensor) -> Tensor:
        """The logarithm of what stays from token to token, [heads], in the layer of this number."""
        return staying(self.rates, layer, self.layers, like)

    def _turned(self, x: Tensor, positions: Tensor) -> Tensor:
        """Twice the features: products of two then go with the cosine of the angle between their positions."""
        wide = torch.promote_types(x.dtype, torch.float32)
        angles = positions[:, None, :, None].to(wide) * self.theta.to(wide)[None, :, None]
        return torch.cat([x * angles.cos(), x * angles.sin()], -1).to(x.dtype)


class SimpleGatedUnit(nn.Module):
    """TransNormer's feed-forward map without an activation: ((x V_1) * (x V_2)) V_3.

    Shapes: [..., dim] to [..., dim]. `hidden` is 8 / 3 of `dim` by default, rounded up.
    """

    def __init__(self, dim: int, hidden: int | None = None) -> None:
        super().__init__()
        hidden = -(-8 * dim // 3) if hidden is None else hidden
        self.one, self.two = nn.Linear(dim, hidden, bias=False), nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.one(x) * self.two(x))


def simple_rms_norm(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x over the root of its mean square, without a gain; [..., C] to [..., C]."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)
