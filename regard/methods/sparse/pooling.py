"""Means of queries or keys over blocks of positions, whatever slots they lie in."""

from __future__ import annotations

import torch
from torch import Tensor


def block_means(x: Tensor, positions: Tensor, block: int, count: int) -> tuple[Tensor, Tensor]:
    """Mean of x over each block of `block` positions, and how many tokens each block holds.

    Shapes: x [B, H, L, D]; positions [B|1, L], negative = empty; means [B, H, count, D] in float32 or wider (0 for an
    empty block); held [B|1, 1, count].
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    real = positions >= 0
    place = torch.where(real, positions // block, count)
    held = torch.zeros(place.shape[0], count + 1, dtype=wide.dtype, device=x.device)
    held.scatter_add_(1, place, torch.ones_like(place, dtype=wide.dtype))
    index = place[:, None, :, None].expand(x.shape[0], x.shape[1], -1, x.shape[3])
    sums = wide.new_zeros(x.shape[0], x.shape[1], count + 1, x.shape[3]).scatter_add_(2, index, wide)
    held = held[:, None, :count]
    return sums[:, :, :count] / held.clamp(min=1).unsqueeze(-1), held


def blocks_of(positions: Tensor, block: int) -> int:
    """How many blocks of `block` positions it takes to reach the last one."""
    return int(positions.max()) // block + 1 if positions.numel() else 0


def by_position(rows: Tensor, positions: Tensor, empty: int | bool) -> Tensor:
    """What was chosen for each query row, [B, H, N, k], by query position instead: [B, H, last position + 1, k].

    Shapes: positions [B|1, N]; positions without a query are filled with `empty`.
    """
    length = int(positions.max()) + 1
    B, H, N, k = rows.shape
    if positions.shape[0] == 1 and length == N:
        return rows
    full = rows.new_full((B, H, length + 1, k), empty)
    place = torch.where(positions >= 0, positions, length)[:, None, :, None].expand(B, H, N, k)
    return full.scatter_(2, place, rows)[:, :, :length]
