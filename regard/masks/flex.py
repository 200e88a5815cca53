"""A tile plan as FlexAttention's block mask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask

    from regard.masks.grid import Grid
    from regard.masks.plan import TilePlan

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def block_mask(plan: TilePlan, mask_mod: MaskMod | None, device: torch.device) -> BlockMask:
    """PARTIAL and FULL tiles as the two lists of key blocks that FlexAttention walks for each query block."""
    from torch.nn.attention.flex_attention import BlockMask

    from regard.masks.plan import FULL, PARTIAL

    (partial, partial_indices), (full, full_indices) = (_listed(plan.status == kind) for kind in (PARTIAL, FULL))
    return BlockMask.from_kv_blocks(
        partial.to(device),
        partial_indices.to(device),
        full.to(device),
        full_indices.to(device),
        BLOCK_SIZE=plan.size,
        mask_mod=mask_mod or by_place(plan.mask.flex(), plan.grid, device),
        seq_lengths=(plan.N, plan.M),
    )


def by_place(mask_mod: MaskMod, grid: Grid, device: torch.device) -> MaskMod:
    """A mask on positions as a mask on places; empty slots are hidden."""
    if grid.q_given is None and grid.k_given is None and grid.q_start == 0:
        return mask_mod
    q, k, start = grid.q_given, grid.k_given, grid.q_start
    q = q.to(device) if q is not None else q
    k = k.to(device) if k is not None else k

    def place_mod(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        i = q_idx + start if q is None else q[b if q.shape[0] > 1 else 0, h if q.shape[1] > 1 else 0, q_idx]
        j = kv_idx if k is None else k[b if k.shape[0] > 1 else 0, h if k.shape[1] > 1 else 0, kv_idx]
        seen = mask_mod(b, h, i.clamp(min=0), j.clamp(min=0))
        return seen & (i >= 0) & (j >= 0)

    return place_mod


def _listed(which: Tensor) -> tuple[Tensor, Tensor]:
    """How many columns each row marks, and their indices first."""
    order = torch.sort(which.to(torch.int8), dim=-1, descending=True, stable=True).indices
    # The CPU kernel reads the indices as contiguous whatever their strides.
    return which.sum(-1, dtype=torch.int32), order.to(torch.int32).contiguous()
