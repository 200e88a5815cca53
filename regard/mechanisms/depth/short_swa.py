"""Short sliding-window attention along the sequence: the dual of the window along the layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.caches import beside
from regard.core import Cost, Limit, Source, Spec
from regard.masks import window
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.slot import divide


@dataclass(frozen=True, eq=False)
class Latest:
    """Keys and values of each row's latest real tokens.

    Shapes: k and v [B, H, t, D]; positions [B|1, t], -1 where a row had fewer.
    """

    k: Tensor
    v: Tensor
    positions: Tensor


class ShortSlidingWindow(Layer):
    """Causal multi-head attention over a token's last `window` tokens, itself included; decoding keeps no more.

    It stands before a model's global attention, in a residual of its own: S = H + short(norm(H)), then
    A = S + attention(norm(S)).

    Shapes: tokens [B, N, dim] to [B, N, dim].
    Raises: ValueError where window < 1; ShapeError where `dim` is not a multiple of `heads`.
    Source: "Residual Stream Duality in Modern Transformer Architectures", 2603.16039.
    """

    spec: ClassVar[Spec] = Spec(
        id="short_swa",
        slot="layer",
        source=Source(
            "Residual Stream Duality in Modern Transformer Architectures", "2603.16039", authors="Zhang, Yifan"
        ),
        what="Causal attention over the last few tokens, of which decoding keeps no more.",
        formula="out_i = W_o sum_j softmax_j(q_i k_j / sqrt(D)) v_j  over  i - window < j <= i",
        bidirectional=False,
        gqa=False,
        cost=Cost(time=1, state=0),
        limits=(Limit("softmax", window=10**6), Limit("own_state_through_values", window=1)),
        variants=({"window": 3},),
        entry="residual_duality",
    )

    def __init__(self, dim: int, heads: int, *, window: int = 32) -> None:
        super().__init__()
        divide(type(self).__name__, dim, heads)
        self.dim, self.heads, self.window = dim, heads, window
        self.at_least(window=1)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        start(self)

    def attend(self, call: Call) -> Tensor:
        q, k, v = (split(one(call.tokens), self.heads) for one in (self.q, self.k, self.v))
        return self.out(join(call.attend(q, k, v, where=window(self.window))))

    def begin(self, batch: int) -> Latest | None:
        return None

    def advance(self, inner: Latest | None, call: Call) -> tuple[Tensor, Latest]:
        N = call.tokens.shape[1]
        q, k, v = (split(one(call.tokens), self.heads) for one in (self.q, self.k, self.v))
        at = call.k_at(N)
        if inner is not None:
            k, v = torch.cat([inner.k, k], 2), torch.cat([inner.v, v], 2)
            at = beside(inner.positions, at)
        out = call.with_(k_positions=at).attend(q, k, v, where=window(self.window))
        return self.out(join(out)), self._latest(k, v, at)

    def _latest(self, k: Tensor, v: Tensor, at: Tensor) -> Latest:
        if bool((at < 0).any()):
            # Padding first, in each row, so that what is cut off is the oldest.
            order = (at >= 0).to(torch.int8).sort(dim=1, stable=True).indices[:, -self.window :]
            index = order.expand(k.shape[0], -1)[:, None, :, None].expand(-1, self.heads, -1, k.shape[3])
            return Latest(k.gather(2, index), v.gather(2, index), at.gather(1, order))
        return Latest(k[:, :, -self.window :], v[:, :, -self.window :], at[:, -self.window :])
