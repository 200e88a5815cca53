"""How far information travels over several layers of one mask."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard.masks.base import Mask


@dataclass(frozen=True)
class Reach:
    """What a stack of layers of one mask can reach.

    `coverage` is the share of (query, key) pairs joined by a path of at most `layers` steps; `layers_needed` the least
    number of layers that joins them all, None where no number does.
    """

    layers: int
    coverage: float
    layers_needed: int | None

    @property
    def complete(self) -> bool:
        return self.layers_needed is not None and self.layers_needed <= self.layers


def reached(mask: Mask, N: int, layers: int) -> Tensor:
    """Which of N positions each position can hear from through `layers` layers and the residual stream.

    Shapes: boolean [N, N].
    """
    _check(N, layers)
    step, found = _step(mask, N), torch.eye(N, dtype=torch.bool)
    for _ in range(layers):
        found = _joined(found, step)
    return found


def receptive_field(mask: Mask, N: int, layers: int, *, causal: bool = True) -> Reach:
    """The share of pairs that `layers` layers of one mask join, and how many layers would join all.

    Every layer adds one step along the mask, or stays (the residual stream). For `power()` with block=1, window=1 and
    no sinks, a distance n is joined in as many layers as n has ones in binary. `causal`: pairs with j <= i count, else
    all pairs do.

    Raises: ValueError where N < 1, layers < 0, or the mask differs between batch elements or heads.
    Source: "PowerAttention", 2503.03588, section 3 (theory of the receptive field).
    """
    _check(N, layers)
    step, found = _step(mask, N), torch.eye(N, dtype=torch.bool)
    wanted = torch.ones(N, N, dtype=torch.bool)
    wanted = wanted.tril() if causal else wanted
    total, held = int(wanted.sum()), [int((found & wanted).sum())]
    while held[-1] < total:
        after = _joined(found, step)
        if torch.equal(after, found):  # once a layer adds nothing, none will
            break
        found = after
        held.append(int((found & wanted).sum()))
    needed = len(held) - 1 if held[-1] == total else None
    return Reach(layers, held[min(layers, len(held) - 1)] / total, needed)


def _check(N: int, layers: int) -> None:
    if N < 1 or layers < 0:
        raise ValueError(f"receptive_field needs N of at least 1 and layers of at least 0; got N={N}, layers={layers}.")


def _step(mask: Mask, N: int) -> Tensor:
    seen = mask.dense(N)
    if seen.shape[:2] != (1, 1):
        raise ValueError(f"receptive_field needs one mask for all batch elements and heads; got {mask!r}.")
    return seen[0, 0] | torch.eye(N, dtype=torch.bool)


def _joined(found: Tensor, step: Tensor) -> Tensor:
    """Paths one step longer; counts stay whole in float32 below 2^24."""
    return step.float() @ found.float() > 0
