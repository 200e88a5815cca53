"""Reading attention weights: `rows` with an entropy reduction beside SDPA's time and eager attention's memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.pairing import Figure, in_turn, qkv
from regard.bench.memory import peak
from regard.masks import causal
from regard.ops import Rows, attend

N = 4096


def entropies(weights: Tensor) -> Tensor:
    """Nats of each row; several times as fast as torch.special.entr, whose loop is scalar on CPU."""
    least = torch.finfo(weights.dtype).tiny
    return weights.clamp_min(least).log_().mul_(weights).sum(-1).neg_()


def run(device: torch.device, quick: bool) -> Iterator[Figure]:
    """Entropy of every row of 8 heads."""
    q, k, v = qkv(N, torch.float32, device)
    found: list[Tensor] = []

    def entropy(rows: Rows) -> None:
        found.append(entropies(rows.weights))

    def streamed() -> None:
        found.clear()
        attend(q, k, v, where=causal(), rows=entropy)

    def eager() -> tuple[Tensor, Tensor]:
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        later = torch.ones(N, N, dtype=torch.bool, device=device).triu(1)
        weights = scores.masked_fill(later, -torch.inf).softmax(-1)
        return weights @ v, entropies(weights)

    times = in_turn(
        {"rows": streamed, "sdpa": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)}, 5, device
    )
    ratio = times["rows"] / times["sdpa"]
    yield Figure("rows with entropy / SDPA", f"causal, N={N}, float32", ratio, "x", "at most 3", ratio <= 3)
    with peak(device) as ours:
        streamed()
    with peak(device) as theirs:
        eager()
    if ours.bytes is not None and theirs.bytes:
        share = ours.bytes / theirs.bytes
        yield Figure(
            "peak memory, rows / eager", f"causal, N={N}, float32", share, "x", "at most 0.125", share <= 0.125
        )
