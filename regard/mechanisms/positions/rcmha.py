"""Relative convolutional multi-head attention."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
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
    """What decoding keeps: keys and values after the convolution, and the last rows [B, kernel - 1, F] before it; or,
    with a memory, its inputs."""

    held: Held
    rows: Tensor


class RCMHA(Layer):
    """Queries, keys and values pass a depth-wise convolution along the sequence; scores are Transformer-XL's.

    The convolution looks at a token and the `kernel` - 1 before it, or with `same` at those around it; it follows the
    projection, or is one of the inputs with `conv_before_proj`. `encoding` is "relative", "absolute" (sinusoids added
    to the inputs) or "none". Without kernel (None) relative scores are the paper's RMHA; absolute, its MDHA is with
    kernel, its MHA without. `memory` makes each step a segment of Transformer-XL: it sees the last `memory` inputs of
    those before, which get no gradient; None keeps every key and value.

    Shapes: tokens [B, N, dim] to [B, N, dim]; dim even unless encoding="none". Scores take memory O(H N M).
    Raises: ShapeError where dim and heads do not fit; ValueError for kernel < 1, an even one with `same`, memory < 1
    or an unknown encoding; Unsupported for causal=True with `same`.
    Source: "RCMHA", 2308.03429; scores from "Transformer-XL", 1901.02860, section 3.3.
    Differs from the paper: its text gives no kernel width, order or start; here the convolution follows the projection,
    as in Primer, and starts almost as if it were not there. A memory is the state of `step`, not an argument.
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
            Limit("rcmha", conv_before_proj=True),
            Limit("softmax", kernel=None, zero=("r.weight",)),
            Limit("softmax", kernel=None, encoding="none"),
            Limit("sinusoidal", kernel=None, encoding="absolute"),
        ),
        variants=(
            {"kernel": None},
            {"encoding": "absolute"},
            {"kernel": 4, "bias": True},
            {"conv_before_proj": True, "memory": 10**6},
        ),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kernel: int | None = 3,
        same: bool = False,
        encoding: str = "relative",
        conv_before_proj: bool = False,
        bias: bool = False,
        memory: int | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.kernel, self.same, self.encoding = dim, heads, kernel, same, encoding
        self.conv_before_proj, self.memory = conv_before_proj, memory
        width = divide("RCMHA", dim, heads)
        self.one_of("encoding", ("relative", "absolute", "none"))
        if kernel is not None and (kernel < 1 or (same and kernel % 2 == 0)):
            odd = " and odd with same=True" if same else ""
            raise ValueError(f"RCMHA.kernel must be at least 1{odd}, or None for no convolution; got {kernel}.")
        if memory is not None and memory < 1:
            raise ValueError(f"RCMHA.memory must be at least 1, or None to keep every token; got {memory}.")
        if encoding != "none" and dim % 2:
            raise ShapeError(f"RCMHA pairs sines with cosines, so dim must be even; got {dim}. Type dim={dim + heads}.")
        self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.out = nn.Linear(dim, dim, bias=False)
        if encoding == "relative":
            self.r = nn.Linear(dim, dim, bias=False)
            self.content = nn.Parameter(torch.zeros(heads, 1, width))
            self.place = nn.Parameter(torch.zeros(heads, 1, width))
        start(self)
        if kernel is not None:
            self.taps = nn.Parameter(torch.empty(self._width, kernel))
            self.shift = nn.Parameter(torch.zeros(self._width)) if bias else None
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
        (q, k, v), _ = self._projected(call.tokens, self._nothing(call.tokens), call)
        return self._read(q, k, v, call)

    def begin(self, batch: int) -> Kept:
        nothing = self._nothing(self.q.weight.new_zeros((batch, 0, 0)))
        return Kept(Held(self.memory), nothing)

    def advance(self, inner: Kept, call: Call) -> tuple[Tensor, Kept]:
        if self.memory is not None:
            return self._segment(inner, call)
        (q, k, v), last = self._projected(call.tokens, inner.rows, call)
        held = inner.held.append((k, v), call.k_at(k.shape[2]))
        keys, values = held.parts
        return self._read(q, keys, values, call.with_(k_positions=held.positions)), Kept(held, last)

    def _segment(self, inner: Kept, call: Call) -> tuple[Tensor, Kept]:
        """One segment after a memory of inputs, whose keys and values are made anew, so that the maps learn of them."""
        n = call.tokens.shape[1]
        both = inner.held.append((call.tokens[:, None],), call.k_at(n))
        whole = call.with_(q_positions=both.positions, k_positions=both.positions)
        (q, k, v), _ = self._projected(both.parts[0][:, 0], inner.rows, whole)
        out = self._read(q[:, :, -n:], k, v, call.with_(k_positions=both.positions))
        return out, Kept(replace(both, parts=(both.parts[0].detach(),)), inner.rows)

    @property
    def _width(self) -> int:
        """How many features are convolved: those of the inputs, or of queries, keys and values."""
        return self.dim if self.conv_before_proj else 3 * self.dim

    def _nothing(self, like: Tensor) -> Tensor:
        """The rows before the first token."""
        return like.new_zeros(like.shape[0], (self.kernel or 1) - 1, self._width)

    def _projected(self, tokens: Tensor, before: Tensor, call: Call) -> tuple[list[Tensor], Tensor]:
        """Queries, keys and values [B, H, N, D], and the last real rows before the convolution."""
        if self.encoding == "absolute":
            N = tokens.shape[1]
            at = call.q_at(N, N) if call.documents is None else call.q_at(N, N) - call.starts
            waves = self._waves(at.clamp(min=0), tokens)
            tokens = tokens + waves.unflatten(-1, (2, -1)).mT.flatten(-2)  # a sine beside its cosine
        if not self.conv_before_proj:
            rows = torch.cat([self.q(tokens), self.k(tokens), self.v(tokens)], -1)
            mixed, last = self._convolved(rows, before, call)
            return [split(x, self.heads) for x in mixed.chunk(3, -1)], last
        mixed, last = self._convolved(tokens, before, call)
        return [split(linear(mixed), self.heads) for linear in (self.q, self.k, self.v)], last

    def _convolved(self, rows: Tensor, before: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        """Rows [B, N, F] after the convolution, and the last real ones before it.

        Rows that are padding are moved behind the real ones, so that a real one's neighbours are real.
        """
        if self.kernel is None:
            return rows, before
        back, count, documents = self.kernel - 1, rows.shape[1], call.documents
        real, order = call.q_real, None
        ends = torch.full((1, 1), count, device=rows.device)
        if real is not None and call.padded:
            real = real.expand(rows.shape[0], -1)
            order = torch.argsort((~real).long(), dim=1, stable=True)[..., None]
            rows = rows.masked_fill(~real[..., None], 0.0).take_along_dim(order, 1)
            ends = real.sum(1, keepdim=True)
            documents = None if documents is None else documents.expand(rows.shape[:2]).gather(1, order[..., 0])
        known = torch.cat([before, rows], 1)
        last = known.take_along_dim((ends + torch.arange(back, device=rows.device))[..., None], 1)
        if self.same:
            known = functional.pad(known[:, back:], (0, 0, back // 2, back // 2))
        if documents is None:
            mixed = functional.conv1d(known.mT, self.taps[:, None], self.shift, groups=self._width).mT
        else:
            mixed = self._apart(known, documents)
        return (mixed if order is None else mixed.take_along_dim(order.argsort(1), 1)), last

    def _apart(self, known: Tensor, documents: Tensor) -> Tensor:
        """The convolution, tap by tap, of rows [B, N + kernel - 1, F], of which none sees another document's."""
        N = documents.shape[1]
        mixed = torch.zeros_like(known[:, :N]) if self.shift is None else self.shift.expand(known[:, :N].shape)
        for tap in range(self.taps.shape[1]):
            far = tap - (self.kernel or 1) // 2 if self.same else tap - self.taps.shape[1] + 1
            seen = (torch.arange(N, device=known.device) + far).clamp(0, N - 1)
            alike = (documents[:, seen] == documents)[..., None]
            mixed = mixed + torch.where(alike, known[:, tap : tap + N], 0.0) * self.taps[:, tap]
        return mixed

    def _waves(self, far: Tensor, like: Tensor) -> Tensor:
        """Sines, then cosines, of distances or positions: [.., dim]."""
        angles = far[..., None] * frequencies(self.dim, 10000.0, like)
        return torch.cat([angles.sin(), angles.cos()], -1).to(like.dtype)

    def _read(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        if self.encoding != "relative":
            return self.out(join(call.attend(q, k, v)))
        N, M, width = q.shape[2], k.shape[2], q.shape[3]
        i, j = call.q_at(N, M), call.k_at(M)
        far = i[:, None, :, None] - j[:, None, None, :]
        if call.causal:
            far = far.clamp(min=0)
        least, most = int(far.min()), int(far.max())
        waves = self._waves(torch.arange(least, most + 1, device=q.device), q)
        scores = (q + self.place) @ split(self.r(waves)[None], self.heads).mT / math.sqrt(width)
        bias = scores.take_along_dim((far - least).expand(q.shape[0], 1, N, M), -1)
        return self.out(join(call.attend(q + self.content, k, v, edits=(Bias(bias),))))
