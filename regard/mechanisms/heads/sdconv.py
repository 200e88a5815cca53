"""ConvBERT's mixed attention: half of the heads are convolutions whose kernels are made from a span of tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.slot import divide


@dataclass(frozen=True, eq=False)
class State:
    """Keys and values of the attention, and the last kernel - 1 inputs [B, kernel - 1, C] with which are real."""

    held: Held
    inputs: Tensor
    real: Tensor


class SpanDynamicConvolution(Layer):
    """heads / ratio heads attend; as many others convolve, each token with a kernel made from it and its neighbours.

    A kernel's taps are a softmax of the product of the token's query and a key that a convolution of `kernel` tokens
    makes; with `span=False` of the query alone. With more `ratio` than heads, one head is left of either kind. Causal
    calls convolve over the last `kernel` tokens, others over the nearest.

    Shapes: tokens [B, N, dim] to [B, N, dim]; the branches are heads / ratio * (dim / heads) wide.
    Raises: ShapeError where `dim` is not a multiple of `heads`, or there are no tokens; ValueError where `kernel` is
    even or below 1, and where `ratio` is below 1, or does not divide `heads` and is not above it.
    Source: "ConvBERT: Improving BERT with Span-based Dynamic Convolution", 2008.02496, section 3; its released code.
    Differs from the paper: padding is outside the sequence for the convolution too (the code lets it in); the causal
    form is not in it; maps have no bias by default; each branch has an output map of its own, which comes to the same.
    """

    spec: ClassVar[Spec] = Spec(
        id="sdconv",
        slot="layer",
        source=Source(
            "ConvBERT: Improving BERT with Span-based Dynamic Convolution",
            "2008.02496",
            "section 3",
            authors="Jiang, Zihang and Yu, Weihao and Zhou, Daquan and Chen, Yunpeng and Feng, Jiashi and "
            "Yan, Shuicheng",
        ),
        what="Half of the heads convolve, with kernels made from each token and its neighbours; the others attend.",
        formula="attention:    a = softmax(q k^T / sqrt(D)) v\n"
        "span key:     s_t = pointwise(depthwise(x))_t + b\n"
        "kernel:       w_t = softmax over K taps of (s_t * q_t) W_f\n"
        "convolution:  c_t = sum_r w_t[r] u_{t+r-(K-1)/2},  u = x W_u   (causal: u_{t+r-(K-1)})\n"
        "y = a W_a + c W_c",
        gqa=False,
        cost=Cost(time=2, state=1),
        limits=(
            Limit("span_dynamic_convolution"),
            Limit("span_dynamic_convolution", bias=True, kernel=5, ratio=1),
            Limit("span_dynamic_convolution", span=False),
            Limit("span_dynamic_convolution", ratio=8),
            Limit("box_filter", zero=("taps.weight",)),
            Limit("softmax", zero=("value.weight",), ratio=1),
        ),
        inert=("k.bias",),  # it adds the same to all of a query's scores
        variants=({"kernel": 3, "bias": True}, {"span": False, "ratio": 4}),
    )

    def __init__(
        self, dim: int, heads: int, *, ratio: int = 2, kernel: int = 9, span: bool = True, bias: bool = False
    ) -> None:
        super().__init__()
        width = divide("SpanDynamicConvolution", dim, heads)
        self.dim, self.heads, self.ratio, self.kernel = dim, heads, min(ratio, heads), kernel
        self.at_least(ratio=1, kernel=1)
        if kernel % 2 == 0:
            raise ValueError(f"SpanDynamicConvolution.kernel must be odd; got {kernel}. Type kernel={kernel + 1}.")
        if heads % self.ratio:
            fits = next(r for r in range(ratio, 0, -1) if heads % r == 0)
            raise ValueError(f"SpanDynamicConvolution.ratio={ratio} must divide heads={heads}. Type ratio={fits}.")
        self.local_heads = heads // self.ratio
        inner = self.local_heads * width
        self.q, self.k, self.v = (nn.Linear(dim, inner, bias=bias) for _ in range(3))
        self.value = nn.Linear(dim, inner, bias=bias)
        self.taps = nn.Linear(inner, self.local_heads * kernel, bias=bias)
        self.out, self.out_local = nn.Linear(inner, dim, bias=bias), nn.Linear(inner, dim, bias=False)
        start(self)
        if span:
            self.depthwise = nn.Parameter(torch.randn(dim, 1, kernel) * 0.02)
            self.pointwise = nn.Parameter(torch.randn(inner, dim) * 0.02)
            self.span_bias = nn.Parameter(torch.zeros(inner))
        self.span = span

    def attend(self, call: Call) -> Tensor:
        if call.tokens.shape[1] < 1:
            raise ShapeError("SpanDynamicConvolution needs at least one token [B, N >= 1, dim]; got none.")
        k, v = self._keys(call)
        whole = self.kernel // 2
        sides = (self.kernel - 1, 0) if call.causal else (whole, whole)
        if call.documents is not None:
            return self._joined(call, k, v, self._apart(call, sides))
        return self._joined(call, k, v, self._local(call.tokens, call.q_real if call.padded else None, sides))

    def begin(self, batch: int) -> State:
        inputs = self.q.weight.new_zeros(batch, self.kernel - 1, self.dim)
        return State(Held(), inputs, inputs.new_zeros(batch, self.kernel - 1, dtype=torch.bool))

    def advance(self, inner: State, call: Call) -> tuple[Tensor, State]:
        held = inner.held.append(self._keys(call), call.k_at(call.memory.shape[1]))
        before = inner.real.shape[1]
        x = torch.cat([inner.inputs, call.tokens], 1)
        own = call.q_at(x.shape[1] - before, x.shape[1] - before) >= 0
        real = torch.cat([inner.real, own.expand(x.shape[0], -1)], 1)
        local = self._local(x, real, (self.kernel - 1, 0))[:, before:]
        k, v = held.parts
        out = self._joined(call.with_(k_positions=held.positions), k, v, local)
        # The latest real inputs, whatever padding is among them.
        last = real.to(torch.int8).argsort(dim=1, stable=True)[:, x.shape[1] - before :]
        return out, State(held, x.gather(1, last[..., None].expand(-1, -1, self.dim)), real.gather(1, last))

    def kernels(self, tokens: Tensor, *, causal: bool = False) -> Tensor:
        """The kernel of each token and head, for tokens [B, N, dim] without padding: [B, N, heads / ratio, kernel]."""
        whole = self.kernel // 2
        return self._kernels(tokens, (self.kernel - 1, 0) if causal else (whole, whole))

    def _keys(self, call: Call) -> tuple[Tensor, Tensor]:
        return split(self.k(call.memory), self.local_heads), split(self.v(call.memory), self.local_heads)

    def _joined(self, call: Call, k: Tensor, v: Tensor, local: Tensor) -> Tensor:
        q = split(self.q(call.tokens), self.local_heads)
        return self.out(join(call.attend(q, k, v))) + self.out_local(local)

    def _kernels(self, x: Tensor, sides: tuple[int, int]) -> Tensor:
        q = self.q(x)
        if self.span:
            spanned = F.conv1d(F.pad(x.transpose(1, 2), sides), self.depthwise, groups=self.dim).transpose(1, 2)
            q = q * F.linear(spanned, self.pointwise, self.span_bias)
        scores = self.taps(q).unflatten(-1, (self.local_heads, self.kernel))
        return scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1).to(x.dtype)

    def _local(self, x: Tensor, real: Tensor | None, sides: tuple[int, int]) -> Tensor:
        """The convolution's branch [B, N, inner] over the real of tokens [B, N, dim], `sides` taps to each side."""
        if real is None:
            return self._convolved(x, self.value(x), sides)
        # Real tokens at the end, in their order, so that padding is between none of them; it reads as zeros.
        order = real.expand(x.shape[0], -1).to(torch.int8).argsort(dim=1, stable=True)
        hidden = ~real.expand(x.shape[0], -1).gather(1, order)[..., None]
        packed = x.gather(1, order[..., None].expand_as(x)).masked_fill(hidden, 0.0)
        found = self._convolved(packed, self.value(packed).masked_fill(hidden, 0.0), sides)
        return found.gather(1, order.argsort(1)[..., None].expand_as(found))

    def _apart(self, call: Call, sides: tuple[int, int]) -> Tensor:
        """The convolution's branch where documents are packed: between two of them stand kernel - 1 zeros."""
        x, N = call.tokens, call.tokens.shape[1]
        real = (call.q_at(N, N) >= 0).expand(x.shape[0], -1)
        number = (real & (torch.arange(N, device=x.device) == call.starts)).cumsum(1) - 1
        slots = real.cumsum(1) - 1 + number * (self.kernel - 1)
        L = max(1, int(slots.max()) + 1)
        at = torch.where(real, slots, L)
        hidden = torch.ones(x.shape[0], L + 1, dtype=torch.bool, device=x.device).scatter(1, at, ~real)[:, :L, None]
        spaced = x.new_zeros(x.shape[0], L + 1, self.dim).scatter(1, at[..., None].expand_as(x), x)[:, :L]
        found = self._convolved(spaced, self.value(spaced).masked_fill(hidden, 0.0), sides)
        return found.gather(1, at.clamp(max=L - 1)[..., None].expand(-1, -1, found.shape[2]))

    def _convolved(self, x: Tensor, values: Tensor, sides: tuple[int, int]) -> Tensor:
        spans = F.pad(values, (0, 0, *sides)).unfold(1, self.kernel, 1).unflatten(2, (self.local_heads, -1))
        return (spans @ self._kernels(x, sides)[..., None]).squeeze(-1).flatten(2)


class GroupedFeedForward(nn.Module):
    """ConvBERT's cheaper feed-forward map: each of `groups` slices of the features has maps of its own.

    Shapes: [..., dim] to [..., dim]; there are 1 / groups as many weights as of a whole map.
    Raises: ValueError where `groups` does not divide `dim` and `hidden`.
    Source: "ConvBERT", 2008.02496, section 3.4.
    """

    def __init__(self, dim: int, hidden: int | None = None, *, groups: int = 2) -> None:
        super().__init__()
        hidden = 4 * dim if hidden is None else hidden
        if groups < 1 or dim % groups or hidden % groups:
            raise ValueError(
                f"GroupedFeedForward.groups must divide dim={dim} and hidden={hidden}; got {groups}. Type groups=1."
            )
        self.groups = groups
        self.up = nn.ModuleList(nn.Linear(dim // groups, hidden // groups) for _ in range(groups))
        self.down = nn.ModuleList(nn.Linear(hidden // groups, dim // groups) for _ in range(groups))
        start(self)

    def forward(self, x: Tensor) -> Tensor:
        parts = [up(part) for up, part in zip(self.up, x.chunk(self.groups, -1), strict=True)]
        return torch.cat([down(F.gelu(part)) for down, part in zip(self.down, parts, strict=True)], -1)
