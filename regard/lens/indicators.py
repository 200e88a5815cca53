"""Figures that say what an attention map is like: how spread, how alike its heads, how local, how much of a sink."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard.errors import ShapeError

NEAR = 4  # local focus is told of this many diagonals: a token itself, and the ones before it


def entropy(weights: Tensor) -> Tensor:
    """The entropy of a query's weights in nats, the mean over queries; 0 where each looks at one key.

    Shapes: weights [..., N, N], none below 0; result [...].
    """
    N = _square(weights)
    return -torch.xlogy(weights, weights).sum((-2, -1)) / N


def concentration(weights: Tensor) -> Tensor:
    """The Frobenius norm of a map.

    Shapes: weights [..., N, N]; result [...].
    """
    _square(weights)
    return weights.square().sum((-2, -1)).sqrt()


def diversity(weights: Tensor) -> Tensor:
    """How much heads differ: the standard deviation over heads of a weight, the mean over the pairs of a causal map.

    Shapes: weights [..., H, N, N]; result [...].
    """
    N = _square(weights)
    if weights.dim() < 3:
        raise ShapeError(f"Heads can be compared in maps [..., H, N, N]; got {list(weights.shape)}.")
    return weights.std(-3, correction=0).tril().sum((-2, -1)) * 2 / (N * (N + 1))


def sink(weights: Tensor) -> Tensor:
    """The weight of the first key, the mean over queries.

    Shapes: weights [..., N, N]; result [...].
    """
    _square(weights)
    return weights[..., 0].mean(-1)


def local_focus(weights: Tensor, n: int) -> Tensor:
    """The weight of the key `n` tokens before the query, the mean over the queries that have one.

    Shapes: weights [..., N, N]; result [...].
    Raises: ValueError where no query has one.
    """
    N = _square(weights)
    if not 0 <= n < N:
        raise ValueError(f"local_focus.n must be from 0 to {N - 1} in a map of {N} tokens; got {n}.")
    return weights.diagonal(-n, -2, -1).mean(-1)


@dataclass(frozen=True)
class Indicators:
    """The figures of one layer, each the mean over heads and texts; `local[n]` is the local focus on n tokens before.

    Source: "Deconstructing Attention", 2510.11602.
    Differs from the paper: it does not say over what the entropy of a map is averaged (here over queries) nor whether
    the deviation over heads is of a sample (here it is not, so that one head gives 0).
    """

    entropy: float
    concentration: float
    diversity: float
    sink: float
    local: tuple[float, ...]

    @staticmethod
    def of(weights: Tensor) -> Indicators:
        """The figures of the causal maps of one layer.

        Shapes: weights [..., H, N, N].
        Raises: ShapeError where they are not.
        """
        N = _square(weights)
        return Indicators(
            entropy=entropy(weights).mean().item(),
            concentration=concentration(weights).mean().item(),
            diversity=diversity(weights).mean().item(),
            sink=sink(weights).mean().item(),
            local=tuple(local_focus(weights, n).mean().item() for n in range(min(NEAR, N))),
        )


def _square(weights: Tensor) -> int:
    if weights.dim() < 2 or weights.shape[-1] != weights.shape[-2] or not weights.shape[-1]:
        raise ShapeError(f"A map of attention is [..., N, N]; got {list(weights.shape)}.")
    return weights.shape[-1]
