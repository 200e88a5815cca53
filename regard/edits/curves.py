"""Edits that bend or stretch the scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard.edits.base import Edit, by_head, check_heads, setting


@dataclass(frozen=True)
class Softcap(Edit):
    """Keep scores within (-cap, cap): `cap * tanh(scores / cap)`.

    Raises: ValueError where cap is not finite or not above 0.
    Source: "Gemma 2", 2408.00118, section 2.
    """

    cap: float

    def __post_init__(self) -> None:
        if isinstance(self.cap, Tensor):
            raise ValueError("Softcap.cap must be a number; got a tensor. Use .item().")
        setting(self.cap, "Softcap.cap", positive=True)

    def at(self, scores: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return self.cap * torch.tanh(scores / self.cap)


@dataclass(frozen=True, eq=False)
class Temperature(Edit):
    """Divide scores by a temperature: below 1 sharpens, above 1 flattens.

    Shapes: `t` a number or floats [H], one per query head.
    Raises: ValueError where t is not finite or not above 0; ShapeError where it is not [H].
    """

    t: float | Tensor

    def __post_init__(self) -> None:
        setting(self.t, "Temperature.t", positive=True)

    def at(self, scores: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        t = by_head(self.t, h)
        return scores / (t.to(scores.dtype) if isinstance(t, Tensor) else t)

    def check(self, B: int, H: int, N: int, M: int) -> None:
        check_heads(self.t, "Temperature.t", H)
