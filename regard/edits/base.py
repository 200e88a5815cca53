"""The score edit: a small function on scores, given who looks at whom."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from regard.errors import ShapeError


class Edit:
    """A function on scaled scores, `at(scores, b, h, i, j)`, elementwise for broadcasting index tensors.

    Shapes: `b` batch index, `h` query-head index, `i` and `j` query and key position, or query row and key slot where
    `by_slot` is True; scalars under `vmap` and blocks [B,1,1,1], [1,H,1,1], [..,n,1], [..,1,m] are served by the same
    code. The result has the shape and dtype of the scores.
    """

    additive: ClassVar[bool] = False  # at() is scores + bias()
    by_slot: ClassVar[bool] = False

    def at(self, scores: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """The edited scores."""
        if not self.additive:
            raise NotImplementedError
        wide = torch.promote_types(scores.dtype, torch.float32)
        return scores + self.bias(b, h, i, j, dtype=wide).to(scores.dtype)

    def bias(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        """What an additive edit adds, broadcasting to the scores; computed in `dtype`, or kept where it is a tensor."""
        raise NotImplementedError(f"{type(self).__name__} is not additive; use at().")

    def check(self, B: int, H: int, N: int, M: int) -> None:
        """Raise ShapeError where this edit does not fit scores [B, H, N, M]."""

    @property
    def needs_grad(self) -> bool:
        """Whether a tensor of this edit wants a gradient."""
        return any(isinstance(value, Tensor) and value.requires_grad for value in vars(self).values())


def setting(value: float | Tensor, name: str, *, positive: bool = False) -> float | Tensor:
    """A number, or floats [H] with one number per query head, checked.

    Raises: ValueError where it is not finite (or not above 0 where `positive`); ShapeError where it is not [H].
    """
    if isinstance(value, Tensor):
        if not value.dtype.is_floating_point:
            raise ValueError(f"{name} must be floats [H], one per query head; got {value.dtype}. Use .float().")
        if value.dim() != 1 or not len(value):
            raise ShapeError(f"{name} must be a number or floats [H], one per query head; got {list(value.shape)}.")
        low, finite = value.min().item(), bool(torch.isfinite(value).all())
        shown = f"a least value of {low}"
    else:
        low, finite, shown = value, math.isfinite(value), value
    if not finite:
        raise ValueError(
            f"{name} must be finite; got {value if not isinstance(value, Tensor) else 'inf or nan in it'}."
        )
    if positive and low <= 0:
        raise ValueError(f"{name} must be greater than 0; got {shown}.")
    return value


def by_head(value: float | Tensor, h: Tensor) -> float | Tensor:
    """A setting for the given head indices."""
    if not isinstance(value, Tensor):
        return value
    return value.to(h.device)[h]


def check_heads(value: float | Tensor, name: str, H: int) -> None:
    """Raise ShapeError where a per-head setting does not have one number for each of H query heads."""
    if isinstance(value, Tensor) and len(value) != H:
        raise ShapeError(f"{name} has {len(value)} numbers for {H} query heads; give [{H}].")
