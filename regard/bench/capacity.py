"""How many pairs an associative memory holds before they are confused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.mechanisms import Call
from regard.mechanisms.memory import AssociativeMemory
from regard.ops import attend


@dataclass(frozen=True)
class Held:
    """What a memory of one width gives back of `pairs` pairs: means over trials.

    `error` is |recalled - v| / |v| in the mean, `worst` the largest of a trial, `right` the share of pairs whose
    nearest value is their own, `coherence` the largest cosine of two keys.
    """

    pairs: int
    error: float
    worst: float
    right: float
    coherence: float


def capacity(
    width: int,
    pairs: Sequence[int],
    *,
    rule: str = "hebb",
    trials: int = 32,
    repeats: int = 1,
    generator: torch.Generator | None = None,
) -> list[Held]:
    """What is recalled of random pairs of unit keys and values, written one after another, `repeats` times over.

    `rule` is one of AssociativeMemory's, or "softmax": attention over all pairs, its scores times the width.

    Raises: ValueError where a number is below 1, or for another rule.
    """
    for name, value in (("width", width), ("trials", trials), ("repeats", repeats), ("pairs", min(pairs, default=1))):
        if value < 1:
            raise ValueError(f"capacity: {name} must be at least 1; got {value}.")
    return [_held(width, n, rule, trials, repeats, generator) for n in pairs]


def error_budget(width: int, pairs: int, *, depth: int = 1, heads: int = 1) -> float:
    """The relative error expected of `depth` memories read one after another, each by `heads` that are averaged.

    One Hebbian memory errs by sqrt((pairs - 1) / width); errors that are independent add in squares over the depth, and
    heads that hold the same pairs under keys of their own divide them by the square root of their number.

    Raises: ValueError where a number is below 1.
    """
    for name, value in (("width", width), ("pairs", pairs), ("depth", depth), ("heads", heads)):
        if value < 1:
            raise ValueError(f"error_budget: {name} must be at least 1; got {value}.")
    return math.sqrt((pairs - 1) / width * depth / heads)


def _held(width: int, n: int, rule: str, trials: int, repeats: int, generator: torch.Generator | None) -> Held:
    keys, values = (F.normalize(torch.randn(trials, n, width, generator=generator), dim=-1) for _ in range(2))
    recalled = _recalled(keys, values, rule, repeats)
    error = (recalled - values).norm(dim=-1)
    nearest = (recalled @ values.transpose(-1, -2)).argmax(-1)
    alike = (keys @ keys.transpose(-1, -2)).abs() - torch.eye(n)
    return Held(
        pairs=n,
        error=float(error.mean()),
        worst=float(error.amax(-1).mean()),
        right=float((nearest == torch.arange(n)).float().mean()),
        coherence=float(alike.amax((-1, -2)).mean()),
    )


def _recalled(keys: Tensor, values: Tensor, rule: str, repeats: int) -> Tensor:
    if rule == "softmax":
        k, v = keys[:, None], values[:, None]
        return attend(k, k, v, scale=float(keys.shape[-1]))[:, 0]
    memory = AssociativeMemory(rule=rule)
    k, v = (x.repeat(1, repeats, 1)[:, None] for x in (keys, values))
    x = torch.zeros(keys.shape[0], k.shape[2], 1)
    state = memory.step(None, k, k, v, Call(tokens=x, memory=x, causal=True))[1]
    kept = state[0].values if isinstance(state, tuple) else state.values
    return keys @ kept[:, 0]
