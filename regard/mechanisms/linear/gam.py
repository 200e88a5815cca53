"""GAM: a short convolution beside a bank of learned slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.edits import softmax
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import start
from regard.mechanisms.slot import divide


@dataclass(frozen=True, eq=False)
class Latest:
    """The last kernel - 1 inputs [B, kernel - 1, C], and which of them are real [B, kernel - 1]."""

    inputs: Tensor
    real: Tensor


class GatedAssociativeMemory(Layer):
    """A causal convolution of `kernel` tokens, channel by channel, and what a token reads from `slots` learned vectors;
    two gates of the token weigh them.

    No token reads another but through the convolution: a stack of n layers sees n (kernel - 1) tokens back and no
    further. `fusion` is "gate", "sum" of both without gates, or "local" or "global" for one of the two. `split=True`
    gives every head slots of its own width, `values=True` gives slots values besides their keys. `scale` multiplies
    the scores.

    Shapes: tokens [B, N, dim] to [B, N, dim]; a state of kernel - 1 inputs.
    Raises: ValueError where kernel or slots is below 1, or for an unknown fusion; ShapeError where `split` heads do not
    divide `dim`.
    Source: "Gated Associative Memory", 2509.00605, section 3.
    Differs from the paper: the layer alone, so norms, residual and feed-forward map are the stack's.
    """

    spec: ClassVar[Spec] = Spec(
        id="gam",
        slot="layer",
        source=Source(
            "Gated Associative Memory: A Parallel O(N) Architecture for Efficient Sequence Modeling",
            "2509.00605",
            "section 3",
            authors="Acharya, Rishiraj",
        ),
        what="A short causal convolution and a read from learned slots, weighed by two gates.",
        formula="l_t = sum_{r < K} w_r * x_{t-r} + b\n"
        "g_t = softmax(x_t M^T) M\n"
        "out_t = sigmoid(x_t W_a + b_a) * l_t + sigmoid(x_t W_b + b_b) * g_t",
        bidirectional=False,
        gqa=False,
        cost=Cost(time=1, state=0),
        limits=(
            Limit("gated_memory", slots=6),
            Limit("gated_memory", slots=1, kernel=5),
            Limit("gated_memory", slots=6, kernel=1),
            Limit("depthwise_convolution", zero=("memory",), fusion="sum"),
            Limit("depthwise_convolution", fusion="local"),
        ),
        variants=(
            {"slots": 6, "kernel": 2, "split": True, "values": True},
            {"slots": 6, "kernel": 5, "fusion": "sum", "scale": 0.2},
        ),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kernel: int = 3,
        slots: int = 512,
        fusion: str = "gate",
        split: bool = False,
        values: bool = False,
        scale: float = 1.0,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.kernel, self.slots = dim, heads, kernel, slots
        self.fusion, self.split, self.values, self.scale = fusion, split, values, scale
        self.at_least(dim=1, heads=1, kernel=1, slots=1)
        self.one_of("fusion", ("gate", "sum", "local", "global"))
        if fusion != "global":
            self.taps = nn.Parameter(torch.empty(dim, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
            self.bias = nn.Parameter(torch.zeros(dim))
        if fusion != "local":
            banks, width = (heads, divide("GatedAssociativeMemory", dim, heads)) if split else (1, dim)
            self.memory = nn.Parameter(_slots(banks, slots, width))
            if values:
                self.memory_values = nn.Parameter(_slots(banks, slots, width))
        if fusion == "gate":
            self.gate = nn.Linear(dim, 2 * dim)
            start(self.gate)

    def attend(self, call: Call) -> Tensor:
        real = call.q_real if call.padded else None
        return self._fused(call.tokens, self._local(call.tokens, real, call.documents))

    def begin(self, batch: int) -> Latest:
        like = next(self.parameters())
        none = like.new_zeros(batch, self.kernel - 1, self.dim)
        return Latest(none, none.new_zeros(batch, self.kernel - 1, dtype=torch.bool))

    def advance(self, inner: Latest, call: Call) -> tuple[Tensor, Latest]:
        before, n = self.kernel - 1, call.tokens.shape[1]
        x = torch.cat([inner.inputs, call.tokens], 1)
        real = torch.cat([inner.real, (call.q_at(n, n) >= 0).expand(x.shape[0], -1)], 1)
        out = self._fused(call.tokens, self._local(x, real, None)[:, before:])
        # The latest real inputs, whatever padding is among them.
        last = real.to(torch.int8).argsort(dim=1, stable=True)[:, n:]
        return out, Latest(x.gather(1, last[..., None].expand(-1, -1, self.dim)), real.gather(1, last))

    def recalled(self, x: Tensor) -> Tensor:
        """What tokens [B, N, dim] read from the slots, [B, N, dim]."""
        keys = self.memory
        values = self.memory_values if self.values else keys
        queries = x.unflatten(-1, (keys.shape[0], -1)).transpose(1, 2)
        shares = softmax.weights(queries @ keys.transpose(-1, -2) * self.scale)
        return (shares @ values.to(shares.dtype)).transpose(1, 2).flatten(2).to(x.dtype)

    def _fused(self, x: Tensor, local: Tensor) -> Tensor:
        if self.fusion == "local":
            return local
        if self.fusion == "global":
            return self.recalled(x)
        if self.fusion == "sum":
            return local + self.recalled(x)
        a, b = torch.sigmoid(self.gate(x)).chunk(2, -1)
        return a * local + b * self.recalled(x)

    def _local(self, x: Tensor, real: Tensor | None, documents: Tensor | None) -> Tensor:
        """The convolution over the real of tokens [B, N, dim], each document on its own."""
        if self.fusion == "global":
            return torch.zeros_like(x)
        if real is None:
            return self._convolved(x, documents)
        # Real tokens at the end, in their order, so that padding is between none of them; it reads as zeros.
        rows = x.shape[0]
        order = real.expand(rows, -1).to(torch.int8).argsort(dim=1, stable=True)
        hidden = ~real.expand(rows, -1).gather(1, order)[..., None]
        packed = x.gather(1, order[..., None].expand_as(x)).masked_fill(hidden, 0.0)
        ids = None if documents is None else documents.expand(rows, -1).gather(1, order)
        return self._convolved(packed, ids).gather(1, order.argsort(1)[..., None].expand_as(x))

    def _convolved(self, x: Tensor, ids: Tensor | None) -> Tensor:
        out = x * self.taps[:, -1] + self.bias
        for back in range(1, min(self.kernel, x.shape[1])):
            past = x[:, :-back]
            if ids is not None:
                past = past.masked_fill((ids[:, back:] != ids[:, :-back])[..., None], 0.0)
            out = out + nn.functional.pad(past * self.taps[:, -1 - back], (0, 0, back, 0))
        return out


def _slots(banks: int, slots: int, width: int) -> Tensor:
    made = torch.empty(banks, slots, width)
    for bank in made:
        nn.init.xavier_uniform_(bank)
    return made
