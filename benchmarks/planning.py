"""Planning masks of 131072 x 131072 pairs, tiles of 128."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.nn.attention.flex_attention import create_block_mask

from benchmarks.pairing import Figure, in_turn
from regard.masks import (
    Mask,
    causal,
    chunks,
    dilated,
    documents,
    neighbourhood,
    power,
    prefix,
    sinks,
    strided,
    window,
)
from regard.masks.grid import Grid
from regard.masks.plan import plan

N = 131072


def masks() -> dict[str, Mask]:
    """Every built-in pattern at a length of 131072."""
    ids = torch.arange(N) // 3000
    return {
        "causal": causal(),
        "causal & (window | sinks)": causal() & (window(512) | sinks(4)),
        "causal | prefix": causal() | prefix(1000),
        "causal & documents": causal() & documents(ids),
        "causal & chunks": causal() & chunks(1000),
        "causal & dilated": causal() & dilated(64, 4),
        "causal & strided": causal() & strided(128),
        "power": power(64, 5, 1),
        "neighbourhood 1-D": neighbourhood(N, 512),
        "neighbourhood 2-D": neighbourhood((256, 512), (13, 13)),
        "neighbourhood 3-D": neighbourhood((32, 64, 64), (5, 5, 5)),
    }


def run(device: torch.device, quick: bool) -> Iterator[Figure]:
    """Seconds to classify every tile; FlexAttention's planner beside it where it fits."""
    for name, mask in masks().items():
        spent = in_turn({"plan": lambda mask=mask: _fresh(mask, N)}, 5, device)["plan"]
        yield Figure("plan", f"{name}, N={N}", 1000 * spent, "ms", "under 100", spent < 0.1)
    length = 8192 if quick else 32768

    def mod(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return (j <= i) & ((i - j < 512) | (j < 4))

    mask = causal() & (window(512) | sinks(4))
    times = in_turn(
        {
            "create_block_mask": lambda: create_block_mask(mod, None, None, length, length, device=str(device)),
            "plan": lambda: _fresh(mask, length),
        },
        3,
        device,
    )
    yield Figure(
        "create_block_mask / plan",
        f"causal & (window | sinks), N={length}",
        times["create_block_mask"] / times["plan"],
        "x",
    )


def _fresh(mask: Mask, length: int) -> object:
    return plan(mask, Grid.of(length, length, 128))
