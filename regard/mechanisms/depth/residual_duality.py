"""Short sliding-window attention along the layers: the residual stream as attention."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.core import Cost, Limit, Source, Spec
from regard.edits import softmax
from regard.mechanisms.across import Depth
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.slot import divide
from regard.ops import attend

Kept = tuple[Tensor, Tensor]  # keys and values of the latest states, [B, N, t, C]


class DepthSlidingWindow(Depth):
    """Each state of a token attends to the token's own last `window` states, itself included, with multi-head softmax.

    It is the causal sliding window of a sequence, with the layer in the place of the token: transposed, the two are one
    operator. `residual=True` adds the latest state to what is read.

    Shapes: sources [B, N, S, dim], the states h + f(h) of each token, to what is read after each [B, N, S, dim].
    Raises: ValueError where window < 1; ShapeError where `dim` is not a multiple of `heads`.
    Source: "Residual Stream Duality in Modern Transformer Architectures", 2603.16039.
    Differs from the paper: one set of maps serves all layers, with which the duality is exact; several heads, and an
    output map. The paper leaves open whether the latest state is added; here it is unless `residual=False`.
    """

    spec: ClassVar[Spec] = Spec(
        id="residual_duality",
        slot="depth",
        source=Source(
            "Residual Stream Duality in Modern Transformer Architectures", "2603.16039", authors="Zhang, Yifan"
        ),
        what="A token's state attends to the token's own states after the last few sub-layers.",
        formula="z_s = softmax_j(q(h_s) k(h_j) / sqrt(D)) v(h_j)  over  s - window < j <= s,  of one token\n"
        "read = h_s + W_o z_s",
        bidirectional=False,
        gqa=False,
        cost=Cost(time=1, state=0),
        limits=(
            Limit("softmax", window=10**6, residual=False),
            Limit("own_state_through_values", window=1, residual=False),
            Limit("latest_source", zero=("out.weight",)),
            Limit("window_over_depth", window=3),
        ),
        variants=({"window": 3, "residual": False},),
    )
    feeds = "states"

    def __init__(self, dim: int, heads: int, *, window: int = 4, residual: bool = True) -> None:
        super().__init__()
        divide(type(self).__name__, dim, heads)
        self.dim, self.heads, self.window, self.residual = dim, heads, window, residual
        self.at_least(window=1)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        start(self)

    def read(self, sources: Tensor) -> Tensor:
        flat, S = sources.flatten(0, 1), sources.shape[2]
        reach = min(self.window, S)
        q, k, v = (split(one(flat), self.heads) for one in (self.q, self.k, self.v))
        # Depths are short, so that the keys of each window are laid out side by side: [B * N, H, S, reach, D].
        k, v = (F.pad(x, (0, 0, reach - 1, 0)).unfold(2, reach, 1).transpose(-1, -2) for x in (k, v))
        scores = (q[..., None, :] @ k.transpose(-1, -2))[..., 0, :] * q.shape[-1] ** -0.5
        place = torch.arange(S, device=flat.device)[:, None] + torch.arange(1 - reach, 1, device=flat.device)
        weights = softmax.weights(scores, place >= 0).to(v.dtype)
        read = self.out(join((weights[..., None, :] @ v)[..., 0, :])).unflatten(0, sources.shape[:2])
        return sources + read if self.residual else read

    def advance(self, inner: Kept | None, source: Tensor, at: int) -> tuple[Tensor, Kept]:
        new = (self.k(source)[:, :, None], self.v(source)[:, :, None])
        kept = new if inner is None else tuple(torch.cat(pair, 2) for pair in zip(inner, new, strict=True))
        keys, values = (x[:, :, -self.window :] for x in kept)
        q, k, v = (split(x.flatten(0, 1), self.heads) for x in (self.q(source)[:, :, None], keys, values))
        read = self.out(join(attend(q, k, v))[:, 0]).unflatten(0, source.shape[:2])
        return (source + read if self.residual else read), (keys, values)
