"""Scores that were computed elsewhere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from regard.edits.base import Edit
from regard.errors import ShapeError


@dataclass(frozen=True, eq=False, repr=False)
class Given(Edit):
    """Put these scores in place of the scaled products of queries and keys.

    Shapes: `values` floats [B|1, H|1, N, M], by query row and key slot.
    Raises: ShapeError where they are not.
    """

    by_slot: ClassVar[bool] = True
    values: Tensor

    def __post_init__(self) -> None:
        if self.values.dim() != 4:
            raise ShapeError(f"Given.values must be [B|1, H|1, N, M]; got {list(self.values.shape)}.")

    def at(self, scores: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        sizes = self.values.shape
        index = tuple(place if size > 1 else 0 for place, size in zip((b, h, i, j), sizes, strict=True))
        return torch.zeros_like(scores) + self.values.to(i.device)[index].to(scores.dtype)

    def check(self, B: int, H: int, N: int, M: int) -> None:
        if any(size not in (1, whole) for size, whole in zip(self.values.shape, (B, H, N, M), strict=True)):
            raise ShapeError(
                f"Given.values {list(self.values.shape)} do not broadcast to [B, H, N, M] = {[B, H, N, M]}."
            )

    def __repr__(self) -> str:
        return f"Given({list(self.values.shape)})"
