"""A mask of its own for each head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from regard.errors import ShapeError
from regard.masks.base import Mask, joint_axes
from regard.masks.bounds import Array, Bounds
from regard.masks.grid import Grid
from regard.masks.patterns import Spot, distinct


@dataclass(frozen=True)
class PerHead(Mask):
    """Head h sees what masks[h] allows."""

    masks: tuple[Mask, ...]

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        if h.dim() >= 3 and h.numel() == h.shape[-3]:
            return self._by_head(b, h, i, j)
        seen = self.masks[0].at(b, h, i, j)
        for head, mask in enumerate(self.masks[1:], 1):
            seen = torch.where(h == head, mask.at(b, h, i, j), seen)
        return seen

    def _by_head(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Indices whose heads lie along the third axis from the end: each mask answers for its own heads only."""
        heads = h.flatten().tolist()
        if heads and max(heads) >= len(self.masks):
            raise ShapeError(f"per_head has {len(self.masks)} masks; got a head of index {max(heads)}.")
        shape = torch.broadcast_shapes(b.shape, h.shape, i.shape, j.shape)
        seen = torch.empty(shape, dtype=torch.bool, device=i.device)
        for head in set(heads):
            which = torch.tensor([place for place, found in enumerate(heads) if found == head], device=i.device)
            own = [t.index_select(-3, which) if t.dim() >= 3 and t.shape[-3] > 1 else t for t in (b, h, i, j)]
            part = self.masks[head].at(*own)
            seen.index_copy_(-3, which, part.expand(*shape[:-3], len(which), *shape[-2:]))
        return seen

    def bounds(self, grid: Grid) -> Bounds:
        parts = [grid.bounds(mask) for mask in self.masks]
        return Bounds(*(_stack([getattr(part, name) for part in parts]) for name in Bounds.__slots__))

    def signature(self, spot: Spot) -> list[Array]:
        kinds: dict[Mask, list[int]] = {}
        for head, mask in enumerate(self.masks):
            kinds.setdefault(mask, []).append(head)
        code, used = np.zeros(len(spot.h), dtype=np.int64), 0
        for mask, heads in kinds.items():
            which = np.nonzero(np.isin(spot.h, heads))[0]
            keys = mask.signature(spot.some(which)) if len(which) else []
            kind = distinct(keys)[1] if keys else np.zeros(len(which), dtype=np.int64)
            code[which] = kind + used
            used += int(kind.max(initial=-1)) + 1
        return [code]

    @property
    def parts(self) -> tuple[Mask, ...]:
        return self.masks

    @property
    def axes(self) -> tuple[int, int]:
        return joint_axes(*self.masks)[0], len(self.masks)

    def __repr__(self) -> str:
        return f"per_head([{', '.join(map(repr, self.masks))}])"


def _stack(parts: list[Array]) -> Array:
    """Head h of part h."""
    own = [part[:, h : h + 1] if part.shape[1] > 1 else part for h, part in enumerate(parts)]
    shape = np.broadcast_shapes(*(part.shape for part in own))
    return np.concatenate([np.broadcast_to(part, shape) for part in own], axis=1)


def per_head(masks: Sequence[Mask]) -> Mask:
    """A mask of its own for each query head: head h sees what `masks[h]` allows.

    Raises: ValueError where there are no masks. ShapeError comes where they are used with another number of heads.
    """
    masks = tuple(masks)
    if not masks:
        raise ValueError("per_head needs a mask for each head; got none. Type per_head([causal(), window(64)]).")
    for mask in masks:
        if not isinstance(mask, Mask):
            raise ValueError(
                f"per_head's masks must be masks; got {type(mask).__name__}. Type per_head([m0, m1, ...])."
            )
    found = PerHead(masks)
    joint_axes(found, *masks)
    return masks[0] if len(masks) == 1 else found
