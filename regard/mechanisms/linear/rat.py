"""RAT: running means inside chunks of tokens, softmax attention over the chunks' ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.caches import beside
from regard.core import Cost, Limit, Source, Spec
from regard.edits import softmax
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import split
from regard.mechanisms.rotary import even, frequencies, turned
from regard.mechanisms.slot import divide
from regard.ops import scan

_NEVER = 2**62  # a chunk that no token is in


@dataclass(frozen=True, eq=False)
class Chunks:
    """What is kept: keys and values at the ends of closed chunks, and the running means of the open one.

    Shapes: keys (turned), values [B, H, E, D]; ends [B|1, E] their chunks, -1 where there is none; running [B, 2C] the
    means of keys and values; open [B|1, 1] the chunk they are of, -1 before the first token.
    """

    keys: Tensor
    values: Tensor
    ends: Tensor
    running: Tensor
    open: Tensor


class RecurrentAttention(Layer):
    """Keys and values are gated running means inside chunks of `chunk` tokens; a query attends to where those of the
    earlier chunks ended and to its own.

    One chunk of all tokens is a gated linear recurrence, and chunks of one token are gated softmax attention. What is
    kept is one key and value for each chunk. Queries and keys are made for `groups` heads (2 by default, 1 of an odd
    number), which the others repeat in turn. `rope=True` turns both by the number of the chunk. The paper's hybrid is a
    stack that alternates this layer with `Attention(dim, heads, mixer="sliding_window:window=1024", position="rope")`.

    Shapes: tokens [B, N, dim] to [B, N, dim]; positions must not fall along a sequence.
    Raises: ShapeError where `dim` is not a multiple of `heads`, or `rope` meets an odd head width; ValueError where
    chunk or groups is below 1, or groups does not divide heads.
    Source: "RAT", 2507.04416, section 3; initial values as in its code.
    Differs from the paper: chunks of 8 by default, where it has 16; the layer alone, so norm and residual are the
    stack's; weights of chunk ends and of the own mean come from one softmax, not from two that are merged.
    """

    spec: ClassVar[Spec] = Spec(
        id="rat",
        slot="layer",
        source=Source(
            "RAT: Bridging RNN Efficiency and Attention Accuracy via Chunk-based Sequence Modeling",
            "2507.04416",
            "section 3",
            authors="Wei, Xiuying and Yadav, Anunay and Pascanu, Razvan and Gulcehre, Caglar",
        ),
        what="Gated running means inside chunks of tokens, and softmax attention over the chunks' ends.",
        formula="g = sigmoid(x W_g + b),  z = sigmoid(x W_z)\n"
        "k~_t = g_t * k~_{t-1} + (1 - g_t) * k_t  inside a chunk, 0 before it; v~ likewise\n"
        "a_t = softmax over {k~ at the ends of earlier chunks, k~_t} of q_t k~ / sqrt(D)\n"
        "out_t = (z_t * sum a v~) W_o",
        bidirectional=False,
        gqa=False,
        # Scores take N^2 / chunk, and maps N: at a thousand tokens and chunks of 8 the exponent is still on its way.
        cost=Cost(time=1.75, state=1),
        limits=(
            Limit("chunked_means", chunk=5),
            Limit("chunked_means", chunk=4, groups=4),
            Limit("gated_recurrence", chunk=10**6),
            Limit("gated_softmax", chunk=1, rope=False),
        ),
        variants=(
            ({"chunk": 4, "groups": 4}, Cost(time=2, state=1)),
            ({"chunk": 1, "groups": 1, "rope": False}, Cost(time=2, state=1)),
            ({"chunk": 5, "rope": False}, Cost(time=2, state=1)),
        ),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        chunk: int = 8,
        groups: int | None = None,
        rope: bool = True,
        base: float = 10000.0,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.chunk, self.rope, self.base = dim, heads, chunk, rope, base
        self.head_dim = divide("RecurrentAttention", dim, heads)
        self.groups = (2 if heads % 2 == 0 else 1) if groups is None else groups
        self.at_least(chunk=1, groups=1, base=1)
        if heads % self.groups:
            fits = next(g for g in range(min(self.groups, heads), 0, -1) if heads % g == 0)
            raise ValueError(f"RecurrentAttention.groups={self.groups} must divide heads={heads}. Type groups={fits}.")
        if rope and self.head_dim % 2:
            even("RecurrentAttention with rope=True", self.head_dim)
        narrow = self.groups * self.head_dim
        self.q, self.k = nn.Linear(dim, narrow, bias=False), nn.Linear(dim, narrow, bias=False)
        self.v, self.open, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.gate = nn.Linear(dim, dim)
        for part in (self.q, self.k, self.v, self.open, self.gate, self.out):
            nn.init.normal_(part.weight, std=0.02)
        with torch.no_grad():  # so that means reach back from one token to the whole chunk
            self.gate.bias.uniform_(1, max(min(chunk, 2**20) - 1, 1)).log_()

    def attend(self, call: Call) -> Tensor:
        return self.advance(self.begin(call.tokens.shape[0]), call)[0]

    def begin(self, batch: int) -> Chunks:
        like = self.q.weight
        wide = torch.promote_types(like.dtype, torch.float32)
        none = like.new_zeros(batch, self.heads, 0, self.head_dim, dtype=wide)
        places = torch.zeros(1, 0, dtype=torch.int64, device=like.device)
        return Chunks(none, none, places, none.new_zeros(batch, 2 * self.dim), places.new_full((1, 1), -1))

    def advance(self, inner: Chunks, call: Call) -> tuple[Tensor, Chunks]:
        x = call.tokens
        numbers, ids, first = self._numbered(call)  # of chunks: in their document, and along the row
        known, places = beside(inner.open, ids), beside(inner.open, numbers)
        running = self._running(x, ids, known, inner)
        rows = [split(part, self.heads) for part in running.split(self.dim, -1)]
        k, v = self._turned(rows[0], places), rows[1]
        q = split(self.q(x), self.groups).repeat(1, self.heads // self.groups, 1, 1).to(k.dtype)
        q = self._turned(q, numbers) * self.head_dim**-0.5

        # Of a sequence by itself the number of ends is known without looking.
        plain = call.q_positions is None and call.documents is None
        keys, values, ends = _with_ends(inner, k, v, known, (x.shape[1] - 1) // self.chunk if plain else None)
        at, of = ids[:, None, :, None], ends[:, None, None, :]
        seen = (of >= first[:, None, :, None]) & (of >= 0) & (of < at)
        own = (q * k[:, :, 1:]).sum(-1, keepdim=True)
        scores = torch.cat([q @ keys.transpose(-1, -2), own], -1)
        shares = softmax.weights(
            scores, torch.cat([seen, torch.ones_like(seen[..., :1])], -1) if ends.numel() else None
        )
        read = shares[..., :-1] @ values + shares[..., -1:] * v[:, :, 1:]
        read = read.transpose(1, 2).flatten(2).to(x.dtype)
        after = Chunks(keys, values, ends, running[:, -1], known.amax(1, keepdim=True))
        return self.out(torch.sigmoid(self.open(x)) * read), after

    def _numbered(self, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """Chunks of tokens [B|1, n], -1 for padding, counted in their document and along the row, and each document's
        first one.
        """
        n = call.tokens.shape[1]
        at = call.q_at(n, n)
        real = at >= 0
        if call.documents is None:
            numbers = torch.where(real, at // self.chunk, -1)
            return numbers, numbers, torch.zeros_like(numbers)
        starts = call.starts.expand(max(call.starts.shape[0], at.shape[0]), -1)
        count = real.cumsum(1).expand_as(starts)
        within = count - count.gather(1, starts)  # real tokens of the document before this one
        numbers = torch.where(real, within // self.chunk, -1)
        begins = real & (within % self.chunk == 0)
        ids = begins.cumsum(1) - 1
        return numbers, torch.where(real, ids, -1), ids.gather(1, starts)

    def _running(self, x: Tensor, ids: Tensor, known: Tensor, inner: Chunks) -> Tensor:
        """Means of keys and values after each token, [B, 1 + n, 2C], those of the state first."""
        wide = inner.running.dtype
        raw = self.gate(x).to(wide)
        keys = split(self.k(x), self.groups).repeat(1, self.heads // self.groups, 1, 1).transpose(1, 2).flatten(2)
        adds = torch.cat([keys, self.v(x)], -1).to(wide) * torch.sigmoid(-raw).repeat(1, 1, 2)
        real = (ids >= 0)[..., None]
        new = (known[:, 1:] != known.cummax(1).values[:, :-1])[..., None]
        stays = torch.where(new, -torch.inf, F.logsigmoid(raw))
        stays = torch.where(real, stays, 0.0).repeat(1, 1, 2)
        means = scan(torch.where(real, adds, 0.0), stays, first=inner.running)
        return torch.cat([inner.running[:, None], means], 1)

    def _turned(self, x: Tensor, numbers: Tensor) -> Tensor:
        return turned(x, numbers, frequencies(self.head_dim, self.base, x)) if self.rope else x


def _with_ends(inner: Chunks, k: Tensor, v: Tensor, known: Tensor, count: int | None) -> tuple[Tensor, Tensor, Tensor]:
    """Keys and values at the ends of closed chunks, and their chunks: those kept, and the `count` that close here.

    Shapes: k, v [B, H, 1 + n, D]; known [B|1, 1 + n], the chunk of each, -1 for none.
    """
    there = torch.where(known >= 0, known, _NEVER)
    later = there.flip(1).cummin(1).values.flip(1)[:, 1:]  # the chunk of the next token that is real
    closed = (known[:, :-1] >= 0) & (later != known[:, :-1]) & (later != _NEVER)
    count = int(closed.sum(1).max()) if count is None else count
    if not count:
        return inner.keys, inner.values, inner.ends
    slots = closed.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :count]
    ends = torch.where(closed.gather(1, slots), known.gather(1, slots), -1)
    index = slots.expand(k.shape[0], -1)[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3])
    keys, values = (x.gather(2, index) for x in (k, v))
    return torch.cat([inner.keys, keys], 2), torch.cat([inner.values, values], 2), beside(inner.ends, ends)


__all__ = ["Chunks", "RecurrentAttention"]
