"""A recurrent memory beside attention inside a segment: three paths, mixed by learned weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.masks import causal, chunks, everything
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.rotary import even, frequencies, turned
from regard.mechanisms.slot import divide
from regard.ops import attend


@dataclass(frozen=True, eq=False)
class Segment:
    """The memory as the segment found it, and the segment's own keys, values and outputs so far.

    Shapes: slots [B, m, C], oldest first; keys, values [B, H, s, D]; outputs [B, s, C].
    """

    slots: Tensor
    keys: Tensor
    values: Tensor
    outputs: Tensor


class RecurrentMemoryAttention(Layer):
    """Attention over the segment, over a chunk of it, and over a memory of earlier segments, mixed by three weights.

    A segment of `segment` tokens sees itself and a memory of at most `slots` vectors. At its end the mean output of
    each of its chunks is written: a gate keeps some of the newest slot, the rest is new, and the oldest makes room.
    Heads turn by RoPE inside the segment, each from a base of its own where `bases` is above 1: from `base` to
    `base * bases`. Gradients flow back through `bptt` segments; with 0 what is written is detached, and only the
    weights that write it learn.

    Shapes: tokens [B, N, dim] to [B, N, dim].
    Raises: ShapeError where `dim` is not a multiple of `heads`, or a head's width is odd; ValueError where `segment` is
    not a multiple of `chunk`, or a setting is out of range.
    Source: "Recurrent Memory-Augmented Transformers with Chunked Attention for Long-Context Language Modeling",
    2507.00453.
    Differs from the paper: it leaves the gate, what is written and the empty memory open; here these are a gated
    recurrent unit, the means of chunks, and weights shared by the other two paths.
    """

    spec: ClassVar[Spec] = Spec(
        id="rmat",
        slot="layer",
        source=Source(
            "Recurrent Memory-Augmented Transformers with Chunked Attention for Long-Context Language Modeling",
            "2507.00453",
        ),
        what="Attention over a segment, over chunks of it and over a gated memory of earlier ones, mixed.",
        formula="out = w_1 attend(segment) + w_2 attend(own chunk) + w_3 attend(memory),  w a softmax\n"
        "write: g = sigmoid(W_g [newest; mean]),  slot = g newest + (1 - g) tanh(W_u mean)",
        bidirectional=False,
        gqa=False,
        padding=False,
        packing=False,
        cost=Cost(time=1, state=0),
        limits=(Limit("rmat"), Limit("rmat", segment=4, chunk=2, slots=3)),
        variants=({"segment": 8, "chunk": 4, "slots": 3, "bptt": 2, "bases": 4.0},),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        segment: int = 64,
        chunk: int = 16,
        slots: int = 16,
        bptt: int = 0,
        base: float = 10000.0,
        bases: float = 1.0,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.segment, self.chunk, self.slots = dim, heads, segment, chunk, slots
        self.bptt, self.base, self.bases = bptt, base, bases
        self.at_least(segment=1, chunk=1, slots=0, bptt=0, base=1, bases=1)
        if segment % chunk:
            raise ValueError(
                f"RecurrentMemoryAttention.segment={segment} must be a multiple of chunk={chunk}. Type segment="
                f"{segment - segment % chunk or chunk}."
            )
        even("RecurrentMemoryAttention", divide("RecurrentMemoryAttention", dim, heads))
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        self.weights = nn.Parameter(torch.zeros(3 if slots else 2))
        if slots:
            self.memory_k, self.memory_v = (nn.Linear(dim, dim, bias=False) for _ in range(2))
            self.gate, self.update = nn.Linear(2 * dim, dim), nn.Linear(dim, dim)
        start(self)

    def attend(self, call: Call) -> Tensor:
        return self.advance(self.begin(call.tokens.shape[0]), call)[0]

    def begin(self, batch: int) -> Segment:
        empty = self.q.weight.new_zeros(batch, 0, self.dim)
        none = split(empty, self.heads)
        return Segment(empty, none, none, empty)

    def advance(self, inner: Segment, call: Call) -> tuple[Tensor, Segment]:
        outs, first, N = [], 0, call.tokens.shape[1]
        ended = 0
        while first < N:
            here = slice(first, first + self.segment - inner.outputs.shape[1])
            out, inner = self._some(inner, call.tokens[:, here])
            outs.append(out)
            first = here.stop
            if inner.outputs.shape[1] == self.segment:
                ended += 1
                inner = self._written(inner, cut=self.bptt == 0 or ended % self.bptt == 0)
        return torch.cat(outs, 1), inner

    def _some(self, state: Segment, x: Tensor) -> tuple[Tensor, Segment]:
        """Tokens of one segment, which they may end."""
        first = state.outputs.shape[1]
        at = torch.arange(first, first + x.shape[1], device=x.device)[None]
        q, k, v = (split(one(x), self.heads) for one in (self.q, self.k, self.v))
        plain = q
        q, k = self._turned(q, at), self._turned(k, at)
        k, v = torch.cat([state.keys, k], 2), torch.cat([state.values, v], 2)
        paths = [attend(q, k, v, where=where) for where in (causal(), causal() & chunks(self.chunk))]
        if state.slots.shape[1]:
            mk, mv = (split(one(state.slots), self.heads) for one in (self.memory_k, self.memory_v))
            places = torch.zeros(1, 1, dtype=torch.int64, device=x.device)
            paths.append(
                attend(
                    plain, mk, mv, where=everything, q_positions=places.expand(1, q.shape[2]),
                    k_positions=places.expand(1, mk.shape[2]),
                )
            )  # fmt: skip
        wide = torch.promote_types(x.dtype, torch.float32)
        shares = self.weights[: len(paths)].to(wide).softmax(0)
        mixed = (torch.stack(paths).to(wide) * shares[:, None, None, None, None]).sum(0)
        out = self.out(join(mixed.to(x.dtype)))
        return out, Segment(state.slots, k, v, torch.cat([state.outputs, out], 1))

    def _written(self, state: Segment, *, cut: bool) -> Segment:
        """The state in which the next segment begins: the means of this one's chunks are in the memory."""
        after = self.begin(state.slots.shape[0])
        if not self.slots:
            return after
        slots, outputs = (x.detach() if cut else x for x in (state.slots, state.outputs))
        for mean in outputs.unflatten(1, (-1, self.chunk)).mean(2).unbind(1):
            newest = slots[:, -1] if slots.shape[1] else torch.zeros_like(mean)
            g = torch.sigmoid(self.gate(torch.cat([newest, mean], -1)))
            slot = g * newest + (1 - g) * torch.tanh(self.update(mean))
            slots = torch.cat([slots, slot[:, None]], 1)[:, -self.slots :]
        return Segment(slots, after.keys, after.values, after.outputs)

    def _turned(self, x: Tensor, at: Tensor) -> Tensor:
        if self.bases == 1:
            return turned(x, at, frequencies(x.shape[-1], self.base, x))
        spread = [self.base * self.bases ** (h / max(self.heads - 1, 1)) for h in range(self.heads)]
        steps = [frequencies(x.shape[-1], base, x) for base in spread]
        return torch.cat([turned(x[:, h : h + 1], at, step) for h, step in enumerate(steps)], 1)
