"""Relative convolutional multi-head attention."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.edits import Bias
from regard.errors import ShapeError, Unsupported
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.rotary import frequencies
from regard.mechanisms.slot import divide


@dataclass(frozen=True, eq=False)
class Kept:
    """What decoding keeps: keys and values after the convolution, and the last rows [B, kernel - 1, 3 C] before it."""

    held: Held
    rows: Tensor


class RCMHA(Layer):
    """Queries, keys and values pass a depth-wise convolution along the sequence; scores are Transformer-XL's.

    The convolution looks at a token and the `kernel` - 1 before it, or with `same` at those around it. `kernel` None
    leaves it out (the paper's RMHA), `relative` False the distances (MDHA; both, MHA).

    Shapes: tokens [B, N, dim] to [B, N, dim]; dim even where relative. Scores take memory O(H N M).
    Raises: ShapeError where dim and heads do not fit; ValueError for kernel < 1, or an even one with `same`;
    Unsupported for causal=True with `same`.
    Source: "RCMHA", 2308.03429; scores from "Transformer-XL", 1901.02860, section 3.3.
    Differs from the paper: its text gives no kernel width, order or start; here the convolution follows the projection,
    as in Primer, and starts almost as if it were not there. There is no memory of a segment before; decoding has it.
    """

    spec: ClassVar[Spec] = Spec(
        id="rcmha",
        slot="layer",
        source=Source(
            "RCMHA: Relative Convolutional Multi-Head Attention for Natural Language Modelling",
            "2308.03429",
            "section 3",
            authors="Sugiharto, Herman and Aradea and Mubarok, Husni",
        ),
        what="Transformer-XL's relative attention over convolved queries, keys and values.",
        formula="q, k, v = conv(x W_q), conv(x W_k), conv(x W_v),  R_n = sinusoid of n\n"
        "s_ij = ((q_i + u_h) k_j + (q_i + w_h) (W_r R_{i - j})_h) / sqrt(D)",
        gqa=False,
        cost=Cost(time=2, state=1),
        limits=(
            Limit("rcmha"),
            Limit("rcmha", kernel=None),
            Limit("softmax", kernel=None, zero=("r.weight",)),
            Limit("softmax", kernel=None, relative=False),
        ),
        variants=({"kernel": None}, {"relative": False}, {"kernel": 4, "bias": True}),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kernel: int | None = 3,
        same: bool = False,
        relative: bool = True,
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.kernel, self.same, self.relative = dim, heads, kernel, same, relative
        width = divide("RCMHA", dim, heads)
        if kernel is not None and (kernel < 1 or (same and kernel % 2 == 0)):
            odd = " and odd with same=True" if same else ""
            raise ValueError(f"RCMHA.kernel must be at least 1{odd}, or None for no convolution; got {kernel}.")
        if relative and dim % 2:
            raise ShapeError(f"RCMHA pairs sines with cosines, so dim must be even; got {dim}. Type dim={dim + heads}.")
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.out = nn.Linear(dim, dim, bias=False)
        if relative:
            self.r = nn.Linear(dim, dim, bias=False)
            self.content = nn.Parameter(torch.zeros(heads, 1, width))
            self.place = nn.Parameter(torch.zeros(heads, 1, width))
        start(self)
        if kernel is not None:
            self.taps = nn.Parameter(torch.empty(3 * dim, kernel))
            self.shift = nn.Parameter(torch.zeros(3 * dim)) if bias else None
            nn.init.normal_(self.taps, std=0.02)
            with torch.no_grad():
                self.taps[:, kernel // 2 if same else -1] = 1.0

    @property
    def halts(self) -> list[str]:
        return ["RCMHA with same=True"] if self.same else []

    def allow(self, call: Call) -> None:
        super().allow(call)
        if call.causal and self.same:
            raise Unsupported("RCMHA with same=True is not causal: it would see later tokens. Leave same= out.")

    def attend(self, call: Call) -> Tensor:
        (q, k, v), _ = self._convolved(self._rows(call.tokens), self._nothing(call.tokens), call)
        return self._read(q, k, v, call)

    def begin(self, batch: int) -> Kept:
        weight = self.q.weight
        return Kept(Held(), self._nothing(weight.new_zeros((batch, 0, 0))))

    def advance(self, inner: Kept, call: Call) -> tuple[Tensor, Kept]:
        (q, k, v), last = self._convolved(self._rows(call.tokens), inner.rows, call)
        held = inner.held.append((k, v), call.k_at(k.shape[2]))
        keys, values = held.parts
        return self._read(q, keys, values, call.with_(k_positions=held.positions)), Kept(held, last)

    def _rows(self, tokens: Tensor) -> Tensor:
        return torch.cat([self.q(tokens), self.k(tokens), self.v(tokens)], -1)

    def _nothing(self, like: Tensor) -> Tensor:
        """The rows before the first token."""
        return like.new_zeros(like.shape[0], (self.kernel or 1) - 1, 3 * self.dim)

    def _convolved(self, rows: Tensor, before: Tensor, call: Call) -> tuple[list[Tensor], Tensor]:
        """Queries, keys and values [B, H, N, D] after the convolution, and the last real rows before it.

        Rows that are padding are moved behind the real ones, so that a real one's neighbours are real.
        """
        if self.kernel is None:
            return [split(x, self.heads) for x in rows.chunk(3, -1)], before
        back, count = self.kernel - 1, rows.shape[1]
        real, order = call.q_real, None
        ends = torch.full((1, 1), count, device=rows.device)
        if real is not None and call.padded:
            real = real.expand(rows.shape[0], -1)
            order = torch.argsort((~real).long(), dim=1, stable=True)[..., None]
            rows = rows.masked_fill(~real[..., None], 0.0).take_along_dim(order, 1)
            ends = real.sum(1, keepdim=True)
        known = torch.cat([before, rows], 1)
        last = known.take_along_dim((ends + torch.arange(back, device=rows.device))[..., None], 1)
        if self.same:
            known = functional.pad(known[:, back:], (0, 0, back // 2, back // 2))
        mixed = functional.conv1d(known.mT, self.taps[:, None], self.shift, groups=3 * self.dim).mT
        if order is not None:
            mixed = mixed.take_along_dim(order.argsort(1), 1)
        return [split(x, self.heads) for x in mixed.chunk(3, -1)], last

    def _read(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        if not self.relative:
            return self.out(join(call.attend(q, k, v)))
        N, M, width = q.shape[2], k.shape[2], q.shape[3]
        i, j = call.q_at(N, M), call.k_at(M)
        far = i[:, None, :, None] - j[:, None, None, :]
        if call.causal:
            far = far.clamp(min=0)
        least, most = int(far.min()), int(far.max())
        angles = torch.arange(least, most + 1, device=q.device)[:, None] * frequencies(self.dim, 10000.0, q)
        waves = torch.cat([angles.sin(), angles.cos()], -1).to(q.dtype)
        scores = (q + self.place) @ split(self.r(waves)[None], self.heads).mT / math.sqrt(width)
        bias = scores.take_along_dim((far - least).expand(q.shape[0], 1, N, M), -1)
        return self.out(join(call.attend(q + self.content, k, v, edits=(Bias(bias),))))
