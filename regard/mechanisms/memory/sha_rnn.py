"""SHA-RNN: a recurrent network with one attention head over a long memory of its own states."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.masks import causal
from regard.masks import window as within
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.ops import attend


@dataclass(frozen=True, eq=False)
class Carried:
    """The LSTM's two vectors [B, 1, C], and the remembered states, which are keys and values in one."""

    hidden: Tensor
    cell: Tensor
    memory: Held


class SingleHeadedAttentionRNN(Layer):
    """An LSTM, one attention head over its latest `memory` states, and a feed-forward map that sums its chunks.

    The head has one matrix, for queries; keys and values are the remembered states scaled channel by channel. What is
    carried from one call to the next is detached. `attention=False` leaves the head out, `boom` is how many times wider
    than the tokens the feed-forward map is.

    Shapes: tokens [B, N, dim] to [B, N, dim].
    Raises: ValueError where `memory` or `boom` is below 1; ShapeError where a carried state has another batch.
    Source: "Single Headed Attention RNN: Stop Thinking With Your Head", 1911.11423, section 3.
    Differs from the paper: every token sees the latest `memory` states, its own included, wherever segments end.
    """

    spec: ClassVar[Spec] = Spec(
        id="sha_rnn",
        slot="layer",
        source=Source(
            "Single Headed Attention RNN: Stop Thinking With Your Head",
            "1911.11423",
            "section 3",
            authors="Merity, Stephen",
        ),
        what="An LSTM with one attention head over a memory of its own states.",
        formula="h = LSTM(norm(x)),  m = norm(h)\n"
        "h = h + softmax(s_q norm(W_q h) (s_k m)^T / sqrt(C)) (s_v m)\n"
        "out = norm(h) + sum of the chunks of gelu(W_1 norm(h) + b_1)",
        bidirectional=False,
        gqa=False,
        padding=False,
        packing=False,
        cost=Cost(time=1, state=0),
        limits=(Limit("sha_rnn"), Limit("sha_rnn", memory=3), Limit("sha_rnn", attention=False)),
        variants=({"memory": 3, "boom": 2}, {"attention": False}),
        bfloat16=4.0,  # the LSTM carries its rounding from token to token
    )

    def __init__(self, dim: int, *, memory: int = 128, boom: int = 4, attention: bool = True) -> None:
        super().__init__()
        self.dim, self.memory, self.boom, self.attention = dim, memory, boom, attention
        self.at_least(memory=1, boom=1)
        self.norm_start, self.norm_out, self.norm_boom = (nn.LayerNorm(dim) for _ in range(3))
        self.lstm = nn.LSTM(dim, dim, batch_first=True)
        self.wide = nn.Linear(dim, boom * dim)
        if attention:
            self.norm_memory, self.norm_query, self.norm_q = (nn.LayerNorm(dim) for _ in range(3))
            self.q = nn.Linear(dim, dim, bias=False)
            self.scale_q, self.scale_k, self.scale_v = (nn.Parameter(torch.zeros(dim)) for _ in range(3))
            self.over: nn.Linear | None = nn.Linear(dim, 2 * dim)
        with torch.no_grad():
            for part in (self.wide, *([self.q, self.over] if attention else [])):
                assert part is not None
                nn.init.normal_(part.weight, std=0.1 * dim**-0.5)
                if part.bias is not None:
                    nn.init.zeros_(part.bias)

    def collapse(self) -> None:
        """Put the values' scale, which a map makes from a constant, into the place of both: the same outputs."""
        if self.attention and self.over is not None:
            with torch.no_grad():
                self.scale_v.copy_(self._value_scale())
            self.over = None

    def attend(self, call: Call) -> Tensor:
        return self.advance(self.begin(call.tokens.shape[0]), call)[0]

    def begin(self, batch: int) -> Carried:
        zero = self.wide.weight.new_zeros(batch, 1, self.dim)
        return Carried(zero, zero, Held(size=max(self.memory - 1, 1)))

    def advance(self, inner: Carried, call: Call) -> tuple[Tensor, Carried]:
        x, n = call.tokens, call.tokens.shape[1]
        if inner.hidden.shape[0] != x.shape[0]:
            raise ShapeError(f"This state has batch {inner.hidden.shape[0]}, and {x.shape[0]} rows came. Begin anew.")
        before = tuple(part.transpose(0, 1).contiguous() for part in (inner.hidden, inner.cell))
        h, (hidden, cell) = self.lstm(self.norm_start(x), before)
        memory = inner.memory
        if self.attention:
            memory = memory.append((self.norm_memory(h)[:, None],), call.q_at(n, n))
            h = self._read(self.norm_query(h), memory, call) + self.norm_query(h)
        z = self.wide(self.norm_boom(h))
        z = z * torch.sigmoid(1.702 * z)
        out = z.unflatten(-1, (self.boom, self.dim)).sum(-2) + self.norm_out(h)
        kept = Held(memory.size, 0, tuple(part.detach() for part in memory.parts), memory.positions).trimmed()
        return out, Carried(hidden.detach().transpose(0, 1), cell.detach().transpose(0, 1), kept)

    def _read(self, h: Tensor, memory: Held, call: Call) -> Tensor:
        (states,) = memory.parts
        q = (torch.sigmoid(self.scale_q) * self.norm_q(self.q(h)))[:, None]
        return attend(
            q,
            torch.sigmoid(self.scale_k) * states,
            self._value_scale() * states,
            where=causal() & within(self.memory),
            q_positions=call.q_at(h.shape[1], h.shape[1]),
            k_positions=memory.positions,
        )[:, 0]

    def _value_scale(self) -> Tensor:
        if self.over is None:
            return self.scale_v
        c, f = self.over(torch.sigmoid(self.scale_v)).chunk(2, -1)
        return torch.sigmoid(f) * torch.tanh(c)
