"""CASTLE: causal attention whose keys are renewed as later tokens arrive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.caches import beside
from regard.core import Cost, Limit, Source, Spec
from regard.edits import softmax
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.rotary import frequencies, turned
from regard.mechanisms.slot import divide


@dataclass(frozen=True, eq=False)
class Lookahead:
    """What is kept of the tokens so far: lookahead keys and the queries that renew them, and keys and values.

    Shapes: renewed, asks, keys, values [B, H, M, D]; positions [B|1, M], -1 for padding.
    """

    renewed: Tensor
    asks: Tensor
    keys: Tensor
    values: Tensor
    positions: Tensor


class CASTLE(Layer):
    """Causal attention with lookahead keys: besides its own key a token has one that all tokens after it add to.

    A query sees the keys as they are at its own place, so that nothing later shows. `window` is how many tokens after
    it a token's key learns from (None: all), which is CASTLE-SWL. `rope=True` turns queries and keys of both kinds by
    their positions, but for the query that meets a lookahead key, since what those are made of is not turned.

    Shapes: tokens [B, N, dim] to [B, N, dim]; positions must not fall along a sequence. `head_dim` defaults to
    dim / heads; `block` tokens are computed at a time, in N^2 D operations in all.
    Raises: ShapeError where `dim` is not a multiple of `heads`, or `rope` meets an odd head_dim; ValueError where
    `window` is below 0 or another setting below 1; TypeError for another layer's state.
    Source: "Causal Attention with Lookahead Keys", 2509.07301, section 3.
    Differs from the paper: heads keep their width, so that there are seven maps' parameters and not four's; type a
    smaller head_dim for as many as plain attention has.
    """

    spec: ClassVar[Spec] = Spec(
        id="castle",
        slot="layer",
        source=Source(
            "Causal Attention with Lookahead Keys",
            "2509.07301",
            "section 3",
            authors="Song, Zhuoqing and Sun, Peng and Yuan, Huizhuo and Gu, Quanquan",
        ),
        what="Causal attention in which a token's key is renewed as later tokens arrive.",
        formula="u_s^t = sum_{s < j <= t} sigmoid(q'_s k'_j / sqrt(D)) v'_j\n"
        "a_t = softmax_{s <= t}(q_t k_s / sqrt(D) - SiLU(q_t u_s^t / sqrt(D)))\n"
        "out_t = sum_s a_ts v_s",
        causal=True,
        bidirectional=False,
        gqa=False,
        cross=False,
        decode=True,
        padding=True,
        cost=Cost(time=2, state=1),
        limits=(Limit("castle"), Limit("softmax", zero=("lookahead_v.weight",)), Limit("softmax", window=0)),
        variants=({"window": 3, "rope": True, "block": 8},),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        head_dim: int | None = None,
        window: int | None = None,
        rope: bool = False,
        base: float = 10000.0,
        block: int = 64,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.dim, self.heads = dim, heads
        self.head_dim = divide(name, dim, heads) if head_dim is None else head_dim
        self.window, self.rope, self.base, self.block = window, rope, base, block
        self.at_least(heads=1, head_dim=1, base=1, block=1)
        if window is not None:
            self.at_least(window=0)
        if rope and self.head_dim % 2:
            raise ShapeError(f"{name}: rope=True turns pairs and head_dim={self.head_dim} is odd. Type rope=False.")
        wide = heads * self.head_dim
        self.q, self.k, self.v = (nn.Linear(dim, wide, bias=False) for _ in range(3))
        self.lookahead_q, self.lookahead_k, self.lookahead_v = (nn.Linear(dim, wide, bias=False) for _ in range(3))
        self.out = nn.Linear(wide, dim, bias=False)
        start(self)

    def attend(self, call: Call) -> Tensor:
        return self.advance(self.begin(call.tokens.shape[0]), call)[0]

    def begin(self, batch: int) -> Lookahead:
        none = self.q.weight.new_zeros(batch, self.heads, 0, self.head_dim)
        places = torch.zeros(1, 0, dtype=torch.int64, device=none.device)
        return Lookahead(none.to(_wide(none)), none, none, none, places)

    def advance(self, inner: Lookahead, call: Call) -> tuple[Tensor, Lookahead]:
        if not isinstance(inner, Lookahead):
            raise TypeError(f"{type(self).__name__} goes on from its own state; got {type(inner).__name__}.")
        N = call.tokens.shape[1]
        at = call.q_at(N, N)
        least = torch.zeros_like(at) if call.documents is None else call.starts
        maps = (self.q, self.k, self.v, self.lookahead_q, self.lookahead_k, self.lookahead_v)
        plain, keys, values, asks, answers, brings = (split(one(call.tokens), self.heads) for one in maps)
        facing = plain
        if self.rope:
            steps = frequencies(self.head_dim, self.base, plain)
            facing, keys, asks, answers = (turned(x, at, steps) for x in (plain, keys, asks, answers))
        outs = []
        for first in range(0, N, self.block):
            now = slice(first, first + self.block)
            places = at[:, now]
            inner = Lookahead(
                F.pad(inner.renewed, (0, 0, 0, places.shape[1])),
                torch.cat([inner.asks, asks[:, :, now]], 2),
                torch.cat([inner.keys, keys[:, :, now]], 2),
                torch.cat([inner.values, values[:, :, now]], 2),
                beside(inner.positions, places),
            )
            given = (x[:, :, now] for x in (facing, plain, answers, brings))
            out, renewed = self._block(inner, places, least[:, now], *given)
            outs.append(out)
            inner = Lookahead(renewed, inner.asks, inner.keys, inner.values, inner.positions)
        return self.out(join(torch.cat(outs, 2)).to(call.tokens.dtype)), inner

    def _block(
        self,
        known: Lookahead,
        i: Tensor,
        least: Tensor,
        facing: Tensor,
        plain: Tensor,
        answers: Tensor,
        brings: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """The outputs of c tokens at positions i [B|1, c], and all lookahead keys after them; they are known already.

        Nothing before position `least` [B|1, c] is looked at.

        Shapes: facing, plain, answers, brings [B, H, c, D]; results [B, H, c, D] and [B, H, M, D].
        """
        kind, scale = known.renewed.dtype, self.head_dim**-0.5
        facing, plain, answers, brings = (x.to(kind) for x in (facing, plain, answers, brings))
        asks, keys, values = (x.to(kind) for x in (known.asks, known.keys, known.values))
        i, j, least = i[:, None, :, None], known.positions[:, None, None, :], least[:, None, :, None]
        seen = (i >= 0) & (j >= least) & (j <= i)
        # What each token of the block adds to the key of each token before it, [B, H, c, M].
        adds = seen & (j < i)
        if self.window is not None:
            adds = adds & (i - j <= self.window)
        gates = torch.sigmoid(answers @ asks.transpose(-1, -2) * scale).masked_fill(~adds, 0.0)
        # Who of the block came up to each of its queries.
        came = (i >= 0) & (i.transpose(-1, -2) >= least) & (i.transpose(-1, -2) <= i)
        brought = (plain @ brings.transpose(-1, -2) * scale).masked_fill(~came, 0.0)
        ahead = plain @ known.renewed.transpose(-1, -2) * scale + brought @ gates
        scores = facing @ keys.transpose(-1, -2) * scale - F.silu(ahead)
        out = softmax.weights(scores, seen) @ values
        return out, known.renewed + gates.transpose(-1, -2) @ brings


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
