"""Indicators added up from blocks of a map, so that no map is ever whole."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.errors import Unsupported
from regard.lens.indicators import NEAR, Indicators


class Tally:
    """What blocks of one layer's causal maps add up to.

    A block is any set of queries and keys, with all heads; every pair belongs to one block, and pairs of weight 0 to
    none or one. A key's place is counted among the real tokens of its text.
    """

    def __init__(self) -> None:
        self._entropy: Tensor | float = 0.0  # all of these [B] or [B, H], in float64
        self._squares: Tensor | float = 0.0
        self._apart: Tensor | float = 0.0
        self._first: Tensor | float = 0.0
        self._near: list[Tensor | float] = [0.0] * NEAR

    def add(self, weights: Tensor, i: Tensor, j: Tensor) -> None:
        """One block.

        Shapes: weights [B, H, n, m]; i [B|1, n] and j [B|1, m] are the places of queries and keys, -1 for padding.
        Raises: Unsupported where a query looks at a later key.
        """
        i, j = i[:, None, :, None], j[:, None, None, :]
        a = weights.detach().double().masked_fill((i < 0) | (j < 0), 0.0)
        if bool((a.masked_fill(j <= i, 0.0) != 0).any()):
            raise Unsupported("The indicators are of causal maps, and here a token looks at a later one.")
        self._entropy = self._entropy - torch.xlogy(a, a).sum((2, 3))
        self._squares = self._squares + a.square().sum((2, 3))
        self._apart = self._apart + a.std(1, correction=0).sum((1, 2))
        self._first = self._first + a.masked_fill(j != 0, 0.0).sum((2, 3))
        for n in range(NEAR):
            self._near[n] = self._near[n] + a.masked_fill(i - j != n, 0.0).sum((2, 3))

    def told(self, lengths: Tensor) -> Indicators:
        """The figures, of texts with this many real tokens [B|1]."""
        N = lengths.double()
        each = N[:, None]
        near = range(min(NEAR, int(lengths.min())))
        return Indicators(
            _mean(self._entropy / each),
            _mean(torch.as_tensor(self._squares).sqrt()),
            _mean(self._apart * 2 / (N * (N + 1))),
            _mean(self._first / each),
            tuple(_mean(self._near[n] / (each - n)) for n in near),
        )


def _mean(figures: Tensor) -> float:
    return float(figures.mean())
