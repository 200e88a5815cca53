"""Deep delta learning: each sub-layer rewrites one direction of the residual stream."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.across import Depth, wide


class DeepDeltaResidual(Depth):
    """A sub-layer's output is a direction k of length 1, and what the state holds along it is replaced by a new value.

    The state's operator 1 - beta k k^T leaves it alone at beta = 0, projects at 1 and reflects at 2; beta is 1 at the
    start. `value` is how a new value is made of the state: 4 sigmoid of a linear map, the linear map itself
    ("linear"), or 2 ("constant"). With `channels` > 1 the state has as many columns, all of which start as the model's
    input, and a sub-layer reads a learned sum of them.

    Shapes: sources [B, N, S, dim], the model's input and each sub-layer's output, to the states [B, N, S, dim];
    `layers` is at most how many, the input counted.
    Raises: ValueError where `layers` or `channels` is below 1 or `value` is unknown.
    Source: "Deep Delta Learning", 2601.00417, by way of "Residual Stream Duality", 2603.16039.
    Differs from the paper: beta and the value are each one linear map of the state, and no small network.
    """

    spec: ClassVar[Spec] = Spec(
        id="deep_delta",
        slot="depth",
        source=Source("Deep Delta Learning", "2601.00417", authors="Zhang, Yifan and others"),
        what="A sub-layer's output says which direction of the residual stream is rewritten.",
        formula="k = f / |f|,  beta = 2 sigmoid(w_beta norm(x) + b_beta),  v = 4 sigmoid(W_v x + b_v)\n"
        "X <- X + beta k (v^T - k^T X),  x = X w",
        bidirectional=False,
        gqa=False,
        cost=Cost(time=1, state=0),
        limits=(
            Limit("deep_delta"),
            Limit("deep_delta", channels=3),
            Limit("deep_delta", value="linear"),
            Limit("deep_delta", value="constant"),
        ),
        variants=({"channels": 3, "value": "linear"}, {"value": "constant"}),
        entry="residual_duality",
    )

    def __init__(self, dim: int, *, layers: int = 64, channels: int = 1, value: str = "sigmoid") -> None:
        super().__init__()
        self.dim, self.layers, self.channels, self.value = dim, layers, channels, value
        self.at_least(layers=1, channels=1)
        self.one_of("value", ("sigmoid", "linear", "constant"))
        self.write = nn.Parameter(torch.randn(layers, dim) * dim**-0.5 * 0.1)
        self.write_bias = nn.Parameter(torch.zeros(layers))  # beta = 1
        if value != "constant":
            self.new = nn.Parameter(torch.randn(layers, channels, dim) * dim**-0.5)
            self.new_bias = nn.Parameter(torch.zeros(layers, channels))
        if channels > 1:
            self.sum = nn.Parameter(torch.full((layers, channels), 1 / channels))

    def read(self, sources: Tensor) -> Tensor:
        first, *rest = sources.to(wide(sources)).unbind(2)
        state, ks = self._start(first), [F.normalize(f, dim=-1, eps=1e-5) for f in rest]
        reads = [self._compressed(state, 0)]
        for at, k in enumerate(ks):
            state = self._after(state, reads[-1], k, at)
            reads.append(self._compressed(state, at + 1))
        return torch.stack(reads, 2).to(sources.dtype)

    def advance(self, inner: Tensor | None, source: Tensor, at: int) -> tuple[Tensor, Tensor]:
        new = source.to(wide(source))
        if inner is None:
            state = self._start(new)
        else:
            state = self._after(inner, self._compressed(inner, at - 1), F.normalize(new, dim=-1, eps=1e-5), at - 1)
        return self._compressed(state, at).to(source.dtype), state

    def _start(self, source: Tensor) -> Tensor:
        return source[..., None].expand(*source.shape, self.channels)

    def _after(self, state: Tensor, x: Tensor, k: Tensor, at: int) -> Tensor:
        """The state [B, N, C, V], read as x, after the sub-layer number `at` has given the direction k [B, N, C]."""
        normed = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        beta = 2 * torch.sigmoid((normed * self.write[at].to(x.dtype)).sum(-1) + self.write_bias[at].to(x.dtype))
        return self.rewritten(state, k, beta, self._new(x, at))

    @staticmethod
    def rewritten(state: Tensor, k: Tensor, beta: Tensor, value: Tensor) -> Tensor:
        """The state after one rewriting: X + beta k (v^T - k^T X).

        Shapes: state and result [B, N, C, V]; k [B, N, C] of length 1; beta [B, N]; value [B, N, V].
        """
        held = (k[..., None] * state).sum(-2)
        return state + (beta[..., None] * (value - held))[..., None, :] * k[..., None]

    def _new(self, x: Tensor, at: int) -> Tensor:
        if self.value == "constant":
            return x.new_full((*x.shape[:-1], self.channels), 2.0)
        made = F.linear(x, self.new[at].to(x.dtype), self.new_bias[at].to(x.dtype))
        return made if self.value == "linear" else 4 * torch.sigmoid(made)

    def _compressed(self, state: Tensor, at: int) -> Tensor:
        return state[..., 0] if self.channels == 1 else (state * self.sum[at].to(state.dtype)).sum(-1)
