"""Titans: a network that learns while it reads, beside attention over a window."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.masks import everything
from regard.masks import window as within
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.rotary import even, frequencies, turned
from regard.mechanisms.slot import divide
from regard.ops import FastWeights, State, Writing, attend, fast_weights, learn, merge

MODES = ("gate", "context", "layer", "memory")


@dataclass(frozen=True, eq=False)
class Learned:
    """The network as it is, the keys and values in view, and the latest inputs of the convolution.

    Shapes: past [B, conv - 1, 3 dim], or None without a convolution.
    """

    network: FastWeights
    view: Held
    past: Tensor | None


class Titans(Layer):
    """A long-term memory that is a network, trained by gradient descent while it reads, beside a short-term attention.

    `mode` is how the two meet: "gate" lets the memory gate attention over a window (MAG); "context" attends over the
    segment of `chunk` tokens together with what the memory recalls for them, and writes what came of it (MAC); "layer"
    attends over the memory's outputs (MAL); "memory" is the network alone (LMM). `depth` layers of width `hidden` (a
    head's by default) make the network of each of `memory_heads`; its gradients are taken every `chunk` tokens.
    `persistent` tokens are learned and in view of all. `rate` bounds the step of a write; `momentum` and `forget` can
    be switched off; `conv` is the width of a causal convolution over the projections of the memory, 0 for none;
    `before` reads the network before it learned the token.

    Shapes: tokens [B, N, dim] to [B, N, dim].
    Raises: ShapeError where `dim` is not a multiple of `heads` and `memory_heads`; ValueError for a setting that is out
    of range.
    Source: "Titans: Learning to Memorize at Test Time", 2501.00663, sections 3 and 4.
    Differs from the paper: in "context" a token sees what is recalled for the tokens up to itself, and its output is
    gated by the memory up to itself, so that no later token of its segment shows; the paper's segment is seen whole.
    What the memory takes in is normalised first, so that no input is too large to be learned.
    """

    spec: ClassVar[Spec] = Spec(
        id="titans",
        slot="layer",
        source=Source(
            "Titans: Learning to Memorize at Test Time",
            "2501.00663",
            "sections 3 and 4",
            authors="Behrouz, Ali and Zhong, Peilin and Mirrokni, Vahab",
        ),
        what="A memory that is trained by gradient descent while it reads, beside attention over a window.",
        formula="S_t = eta_t S_{t-1} - theta_t grad |M_{t-1}(k_t) - v_t|^2\n"
        "M_t = (1 - alpha_t) M_{t-1} + S_t\n"
        "out_t = norm(attention_t) * sigmoid(norm(M_t(q_t)))",
        bidirectional=False,
        gqa=False,
        padding=False,
        packing=False,
        cost=Cost(time=1, state=0),
        limits=(Limit("titans"), Limit("titans", mode="layer", chunk=1), Limit("titans", mode="context", chunk=8)),
        variants=(
            {"mode": "context", "chunk": 8, "momentum": False},
            {"mode": "layer", "depth": 1, "persistent": 0, "memory_heads": 2, "chunk": 8, "window": 5},
            {"mode": "memory", "conv": 3, "before": True, "forget": False, "chunk": 8},
        ),
        # Each write is a difference of what was recalled and what came, and both are rounded.
        bfloat16=6.0,
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        mode: str = "gate",
        window: int = 64,
        persistent: int = 4,
        chunk: int = 16,
        depth: int = 2,
        hidden: int | None = None,
        memory_heads: int = 1,
        rate: float = 0.1,
        momentum: bool = True,
        forget: bool = True,
        conv: int = 0,
        before: bool = False,
        base: float = 10000.0,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.mode, self.window, self.persistent = dim, heads, mode, window, persistent
        self.chunk, self.depth, self.hidden, self.memory_heads = chunk, depth, hidden, memory_heads
        self.rate, self.momentum, self.forget, self.conv, self.before, self.base = (
            rate,
            momentum,
            forget,
            conv,
            before,
            base,
        )
        self.one_of("mode", MODES)
        self.at_least(window=1, persistent=0, chunk=1, depth=1, memory_heads=1, conv=0, base=1)
        if not rate > 0:
            raise ValueError(f"Titans.rate must be above 0; got {rate}.")
        if hidden is not None:
            self.at_least(hidden=1)
        D, E = divide("Titans", dim, heads), divide("Titans", dim, memory_heads)
        even("Titans", D)
        inner = E if hidden is None else hidden
        widths = [E, *[inner] * (depth - 1), E]
        self.first = nn.ParameterList(nn.Parameter(torch.empty(memory_heads, a, b)) for a, b in pairwise(widths))
        self.entering = nn.RMSNorm(dim)
        self.recall = nn.Linear(dim, 3 * dim, bias=False)
        self.writing = nn.Linear(dim, 3 * memory_heads)
        self.mix = nn.Parameter(torch.zeros(3 * dim, conv)) if conv else None
        self.tokens = nn.Parameter(torch.empty(persistent, dim)) if persistent else None
        if mode != "memory":
            self.q, self.k, self.v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        if mode in ("gate", "context"):
            self.attended, self.recalled = nn.RMSNorm(dim), nn.RMSNorm(dim)
        self.out = nn.Linear(dim, dim, bias=False)
        self._start()

    def _start(self) -> None:
        start(self)
        with torch.no_grad():
            for W in self.first:
                nn.init.normal_(W, std=W.shape[1] ** -0.5)
            # Half of the largest step, a momentum of a half, and weights that fade over some fifty tokens.
            self.writing.bias.copy_(torch.tensor([0.0, 0.0, -4.0]).repeat_interleave(self.memory_heads))
            if self.tokens is not None:
                nn.init.normal_(self.tokens)
            if self.mix is not None:
                self.mix[:, -1] = 1.0

    def attend(self, call: Call) -> Tensor:
        return self.advance(self.begin(call.tokens.shape[0]), call)[0]

    def begin(self, batch: int) -> Learned:
        wide = torch.promote_types(self.out.weight.dtype, torch.float32)
        network = fast_weights(tuple(W.to(wide) for W in self.first), batch)
        past = None
        if self.conv > 1:
            past = self.out.weight.new_zeros(batch, self.conv - 1, 3 * self.dim)
        state = Learned(network, Held(), past)
        if self.tokens is None or self.mode == "context":
            return state
        return self._recall(self.tokens.repeat(batch, 1, 1), state)[1]

    def advance(self, inner: Learned, call: Call) -> tuple[Tensor, Learned]:
        x, at = call.tokens, call.q_at(call.tokens.shape[1], call.tokens.shape[1])
        if self.mode == "context":
            return self._segments(x, at, inner)
        recalled, inner = self._recall(x, inner)
        if self.mode == "memory":
            return self.out(recalled), inner
        read = x if self.mode == "gate" else recalled
        seen, view = self._windowed(read, at, inner.view)
        if self.mode == "gate":
            seen = self.attended(seen) * torch.sigmoid(self.recalled(recalled))
        return self.out(seen), replace(inner, view=view)

    def _recall(self, x: Tensor, state: Learned) -> tuple[Tensor, Learned]:
        """What the memory recalls for tokens [B, n, dim] that it learns."""
        q, k, v, past = self._memory(x, state.past)
        out, network = learn(state.network, q, k, v, self._writing(x), chunk=self.chunk, before=self.before)
        return join(out).to(x.dtype), replace(state, network=network, past=past)

    def _memory(self, x: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """The memory's queries, keys and values [B, M, n, D], and the inputs that the convolution needs next."""
        made = self.recall(self.entering(x))
        if self.mix is not None:
            wide = made if past is None else torch.cat([past.to(made.dtype), made], 1)
            past = wide[:, wide.shape[1] - self.conv + 1 :] if self.conv > 1 else None
            made = F.conv1d(wide.transpose(1, 2), self.mix[:, None], groups=3 * self.dim).transpose(1, 2)
        kind = torch.promote_types(made.dtype, torch.float32)
        q, k, v = (split(F.silu(part).to(kind), self.memory_heads) for part in made.chunk(3, -1))
        return F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, past

    def _writing(self, x: Tensor) -> Writing:
        said = self.writing(self.entering(x)).to(torch.promote_types(x.dtype, torch.float32)).transpose(1, 2)
        step, momentum, forget = said.chunk(3, 1)
        return Writing(
            self.rate * step.sigmoid(),
            F.logsigmoid(momentum) if self.momentum else torch.full_like(momentum, -torch.inf),
            F.logsigmoid(-forget) if self.forget else torch.zeros_like(forget),
        )

    def _heads(self, x: Tensor, at: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (split(one(x), self.heads) for one in (self.q, self.k, self.v))
        steps = frequencies(q.shape[-1], self.base, q)
        return turned(q, at, steps), turned(k, at, steps), v

    def _windowed(self, x: Tensor, at: Tensor, view: Held) -> tuple[Tensor, Held]:
        """Attention over the window and the persistent tokens."""
        q, k, v = self._heads(x, at)
        view = view.append((k, v), at)
        keys, values = view.parts
        seen = attend(
            q, keys, values, where=within(self.window), state=True, q_positions=at, k_positions=view.positions
        )
        always = self._always(q)
        out = seen.out if always is None else merge(seen, always).out
        return join(out), replace(view, size=max(self.window - 1, 1)).trimmed()

    def _always(self, q: Tensor) -> State | None:
        """Attention over the persistent tokens, which have no place; None where there are none."""
        if self.tokens is None:
            return None
        k, v = (split(one(self.tokens)[None], self.heads).expand(q.shape[0], -1, -1, -1) for one in (self.k, self.v))
        at = torch.zeros(1, 1, dtype=torch.int64, device=q.device)
        return attend(
            q,
            k,
            v,
            where=everything,
            state=True,
            q_positions=at.expand(1, q.shape[2]),
            k_positions=at.expand(1, k.shape[2]),
        )

    def _segments(self, x: Tensor, at: Tensor, state: Learned) -> tuple[Tensor, Learned]:
        """Attention over the segment and what the memory recalls for it; what comes out is learned."""
        outs, first = [], 0
        while first < x.shape[1]:
            open_ = state.network.inputs[0].shape[2]
            if not open_:
                state = replace(state, view=Held())
            here = slice(first, first + self.chunk - open_)
            out, state = self._segment(x[:, here], at[:, here], state)
            outs.append(out)
            first = here.stop
        return self.out(torch.cat(outs, 1)), state

    def _segment(self, x: Tensor, at: Tensor, state: Learned) -> tuple[Tensor, Learned]:
        asked = self._memory(x, state.past)[0]
        recalled = asked
        for layer, W in enumerate(state.network.weights):
            recalled = (recalled if not layer else F.silu(recalled)) @ W
        q, k, v = self._heads(x, at)
        _, more_k, more_v = self._heads(join(recalled).to(x.dtype), at)
        view = state.view.append(
            (torch.stack([k, more_k], -2).flatten(2, 3), torch.stack([v, more_v], -2).flatten(2, 3)),
            at.repeat_interleave(2, 1),
        )
        keys, values = view.parts
        seen = attend(q, keys, values, where=within(self.chunk), state=True, q_positions=at, k_positions=view.positions)
        always = self._always(q)
        y = join(seen.out if always is None else merge(seen, always).out)
        kept, state = self._recall(y, state)
        return self.attended(y) * self.recalled(kept), replace(state, view=view)
