"""How many pairs of a query and a key a mask lets through, for each head, without writing the mask out."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.masks import FULL, PARTIAL, Mask, TilePlan, cached_tiles, causal, everything
from regard.masks.distance import Band

_WRITTEN = 1 << 16  # pairs that are faster counted one by one than by tiles
_CAUSAL = causal()


def pairs(
    mask: Mask, B: int, H: int, N: int, M: int, q: Tensor | None, k: Tensor | None, device: torch.device
) -> Tensor:
    """Visible pairs over the whole batch, for each query head.

    Shapes: positions as `Mask.tiles` takes them; result float64 [H] or [1] where the heads are alike, on any device.
    """
    if q is None and k is None and N <= M:
        if mask is everything:
            return torch.tensor([float(B * N * M)], dtype=torch.float64)
        if mask == _CAUSAL:
            return torch.tensor([float(B * (N * M - N * (N - 1) // 2))], dtype=torch.float64)
    if N * M <= _WRITTEN:
        seen = mask.dense(N, M, batch=B, heads=H, q_positions=q, k_positions=k, device=device)
        counts = seen.sum((2, 3), dtype=torch.float64)
    elif q is None and k is None:
        counts = _of_plan(cached_tiles(mask, N, M, 128, batch=B, heads=H))
    else:
        counts = _of_plan(mask.tiles(N, M, 128, batch=B, heads=H, q_positions=q, k_positions=k, device=device))
    return counts.sum(0) * (B // counts.shape[0])


def pairs_of_all(mask: Mask, B: int, H: int, q: Tensor, tokens: int) -> Tensor:
    """Pairs over all tokens that ever came, kept or not, for each query head.

    Shapes: q positions [B|1, N] among keys at the positions before `tokens`; result float64 [H] or [1].
    """
    if isinstance(mask, Band) and mask.block == 1:
        last = (q - mask.least).clamp(max=tokens - 1)
        first = (q - mask.most).clamp(min=0)
        found = (last - first + 1).clamp(min=0).masked_fill(q < 0, 0).sum().double()
        return found.view(1) * (B // q.shape[0])
    k = torch.arange(tokens, device=q.device)
    return pairs(mask, B, H, q.shape[1], tokens, q, k, q.device)


def _of_plan(plan: TilePlan) -> Tensor:
    """Visible pairs of each batch element and head of a plan: float64 [B|1, H|1]."""
    if plan.status.shape[:2] == (1, 1):
        return torch.tensor([[plan.count()]], dtype=torch.float64)
    rows, cols = (extent.double() for extent in plan.extents)
    counts = torch.einsum("bhrc,r,c->bh", (plan.status == FULL).double(), rows, cols)
    partial = plan.status == PARTIAL
    if partial.any():
        held = plan.patterns.flatten(1).sum(1).cpu().double()
        inside = held[plan.pattern_ids.clamp(min=0).long()] * partial
        counts = counts + inside.sum((2, 3))
    return counts
