"""Intervals by resampling."""

from __future__ import annotations

import torch
from torch import Tensor


def perplexity(losses: Tensor) -> float:
    """The exponential of the mean loss [T] in nats."""
    return losses.double().mean().exp().item()


def bootstrap(
    losses: Tensor, *, draws: int = 1000, block: int = 64, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """An interval of the perplexity over resampled texts.

    Losses [T] of neighbouring tokens depend on each other, so whole blocks of them are drawn.
    """
    losses = losses.double().flatten()
    count = max(1, len(losses) // block)
    means = torch.stack([part.mean() for part in losses.tensor_split(count)])
    generator = torch.Generator().manual_seed(seed)
    picks = torch.randint(count, (draws, count), generator=generator)
    drawn = means[picks].mean(1).exp()
    tail = (1 - level) / 2
    low, high = torch.quantile(drawn, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return low, high


def by_position(losses: Tensor, buckets: int = 16) -> list[list[float]]:
    """Mean loss in equal stretches of the text: [first token, one past the last, mean]."""
    found, start = [], 0
    for part in losses.double().tensor_split(min(buckets, len(losses))):
        found.append([start, start + len(part), part.mean().item()])
        start += len(part)
    return found
