"""LightNet: linear attention whose decay is a running softmax, so that one scan serves both sides and any grid."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError, Unsupported
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.slot import divide
from regard.ops import Memory, recur
from regard.ops.recurrence.normalise import log_weights
from regard.ops.recurrence.sides import ends, starts


class LightNet(Layer):
    """Each channel of a key is a softmax over the tokens, so far or all, and weighs their values; what a query reads of
    them is normed and gated.

    Without an order all tokens meet in one scan, whatever order they stand in. `lrpe` (MD-LRPE) turns queries and
    softmaxed keys by where they are: "rotary" in pairs, "half" the first half of a head's features, "cosine" weighs
    every product of features with the cosine of its angle. With `grid`, such as (8, 8) for the rows and columns of an
    image, the features are shared out to its axes, each turned by one coordinate; tokens stand row by row. `key_dim` is
    the width of a head's queries and keys, by default that of its values; `gate` that of the gate's narrow map.

    Shapes: tokens [B, N, dim] to [B, N, dim], N the product of `grid`; a state of heads key_dim (D + 1) numbers, twice
    that with `lrpe`.
    Raises: ShapeError where sizes do not fit together, N is not the grid's, or features can't be shared out to its axes
    in pairs; ValueError for a setting out of range; Unsupported for packed documents in a grid.
    Source: "You Only Scan Once", 2405.21022, section 3.
    Differs from the paper: turning after the softmax over the tokens so far keeps twice the features, so that scores
    know the difference of places alone; angles of "cosine" go from 1 to 1 / base; the Toeplitz encoding is `md_tpe`.
    """

    spec: ClassVar[Spec] = Spec(
        id="lightnet",
        slot="layer",
        source=Source(
            "You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet",
            "2405.21022",
            "section 3",
            authors="Qin, Zhen and Mao, Yuxin and Shen, Xuyang and Li, Dong and Zhang, Jing and Dai, Yuchao and "
            "Zhong, Yiran",
        ),
        what="Linear attention over keys that are a running softmax over time, normed and gated.",
        formula="k'_j = exp(k_j) / sum_s exp(k_s), channel by channel   (causal: s <= t)\n"
        "o_t = sum_j swish(q_t) . k'_j v_j\n"
        "out = (rms(o) * sigmoid(x W_1 W_2)) W_o",
        gqa=False,
        cost=Cost(time=1, state=0),
        limits=(
            Limit("lightnet"),
            Limit("lightnet", key_dim=3),
            Limit("lightnet_rotary", lrpe="rotary"),
            Limit("lightnet_half", lrpe="half"),
            Limit("lightnet_cosine", lrpe="cosine"),
        ),
        variants=({"lrpe": "rotary"}, {"lrpe": "half", "key_dim": 4}, {"lrpe": "cosine", "key_dim": 3}),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        key_dim: int | None = None,
        lrpe: str = "none",
        grid: tuple[int, ...] | None = None,
        base: float = 10000.0,
        gate: int | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        width = divide("LightNet", dim, heads)
        self.dim, self.heads, self.lrpe, self.base, self.eps = dim, heads, lrpe, base, eps
        self.key_dim, self.gate = width if key_dim is None else key_dim, width if gate is None else gate
        self.grid = None if grid is None else tuple(grid)
        self.at_least(key_dim=1, gate=1, base=1)
        self.one_of("lrpe", ("none", "rotary", "half", "cosine"))
        if self.grid is not None and (not self.grid or min(self.grid) < 1):
            raise ValueError(f"LightNet.grid must be sizes of at least 1; got {grid}. Type grid=(8, 8).")
        self.axes = 1 if self.grid is None else len(self.grid)
        self.turning = {"none": 0, "half": self.key_dim // 2}.get(lrpe, self.key_dim)
        unit = self.axes if lrpe == "cosine" else 2 * self.axes
        if lrpe != "none" and (self.turning % unit or not self.turning or (lrpe == "half" and self.key_dim % 2)):
            fits = -(-self.key_dim // (2 * unit)) * 2 * unit
            raise ShapeError(
                f"LightNet.lrpe={lrpe!r} shares {self.turning} features out to {self.axes} axes in lots of {unit}, and "
                f"they do not go up. Type key_dim={fits}."
            )
        wide = heads * self.key_dim
        self.q, self.k = nn.Linear(dim, wide, bias=False), nn.Linear(dim, wide, bias=False)
        self.v, self.out = nn.Linear(dim, dim, bias=False), nn.Linear(dim, dim, bias=False)
        self.gate_in, self.gate_out = nn.Linear(dim, self.gate, bias=False), nn.Linear(self.gate, dim, bias=False)
        start(self)
        self.gain = nn.Parameter(torch.ones(dim))

    def attend(self, call: Call) -> Tensor:
        N = call.tokens.shape[1]
        if self.grid is not None:
            if call.documents is not None:
                raise Unsupported("LightNet with a grid reads one image a row. Leave documents out.")
            if math.prod(self.grid) != N and not call.padded:
                raise ShapeError(f"LightNet.grid={self.grid} has {math.prod(self.grid)} places; got {N} tokens.")
        return self.advance(None, call)[0]

    def begin(self, batch: int) -> Memory | None:
        return None

    def advance(self, inner: Memory | None, call: Call) -> tuple[Tensor, Memory]:
        x = call.tokens
        q, k, v = split(F.silu(self.q(x)), self.heads), split(self.k(x), self.heads), split(self.v(x), self.heads)
        read, after = self._read(q, k, v, inner, call)
        read = join(read)
        wide = read.to(torch.promote_types(read.dtype, torch.float32))
        normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + self.eps) * self.gain
        return self.out(normed.to(x.dtype) * torch.sigmoid(self.gate_out(self.gate_in(x)))), after

    def _read(self, q: Tensor, k: Tensor, v: Tensor, state: Memory | None, call: Call) -> tuple[Tensor, Memory]:
        real, ids = call.real, call.documents
        if self.lrpe == "none":
            return recur(
                q, k, v, normalise="softmax", state=state, causal=call.causal, real=real, documents=ids, keep=True
            )
        k = k.to(torch.promote_types(k.dtype, torch.float32))
        first, last = (None, None) if ids is None else (starts(ids, real), ends(ids, real))
        total = None if state is None else state.total
        made = log_weights(k, None, real, first, last, total, call.causal)
        cos, sin = self._angles(call.q_at(q.shape[2], q.shape[2]), k)
        out, after = recur(
            self._asked(q.to(k.dtype), cos, sin),
            self._kept(made.keys, cos, sin),
            v,
            decay=self._kept(made.decay, 1.0, 1.0) if call.causal and made.decay is not None else None,
            state=None if state is None else Memory(state.values),
            causal=call.causal,
            real=real,
            documents=ids,
            keep=True,
        )
        return out, Memory(after.values, made.total)

    def _angles(self, at: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines [B|1, 1, N, pairs or features] for places [B|1, N]."""
        places = at[..., None]
        if self.grid is not None:
            sizes = [math.prod(self.grid[axis + 1 :]) for axis in range(self.axes)]
            places = torch.stack([at // size % side for size, side in zip(sizes, self.grid, strict=True)], -1)
        share = self.turning // self.axes
        count = share if self.lrpe == "cosine" else share // 2
        steps = self.base ** -(torch.arange(count, dtype=like.dtype, device=like.device) / count)
        angles = (places[..., None] * steps).flatten(-2)[:, None]
        return angles.cos(), angles.sin()

    def _pairs(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The two halves of each axis' features, and the features that do not turn."""
        a, b = x[..., : self.turning].unflatten(-1, (self.axes, 2, -1)).unbind(-2)
        return a.flatten(-2), b.flatten(-2), x[..., self.turning :]

    def _kept(self, x: Tensor, cos: Tensor | float, sin: Tensor | float) -> Tensor:
        """What is kept of each channel of a key: parts that fade with it, whatever the query turns by."""
        if self.lrpe == "cosine":
            return torch.cat([x * cos, x * sin], -1)
        a, b, rest = self._pairs(x)
        return torch.cat([a * cos, b * cos, a * sin, b * sin, rest], -1)

    def _asked(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """What a query asks of those parts."""
        if self.lrpe == "cosine":
            return torch.cat([x * cos, x * sin], -1)
        a, b, rest = self._pairs(x)
        a, b = a * cos - b * sin, b * cos + a * sin
        return torch.cat([a, b, b, -a, rest], -1)
