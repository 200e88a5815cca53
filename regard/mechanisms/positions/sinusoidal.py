"""Sines and cosines of the position."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms.position import Position
from regard.mechanisms.rotary import frequencies


class SinusoidalPosition(Position):
    """Sines and cosines of the position, from fast to slow, are added to the tokens.

    Shapes: tokens [B, N, dim], dim even; as they came.
    Raises: ShapeError for an odd dim; ValueError where base is not above 1.
    Source: "Attention Is All You Need", 1706.03762, section 3.5.
    """

    spec: ClassVar[Spec] = Spec(
        id="sinusoidal",
        slot="position",
        source=Source(
            "Attention Is All You Need",
            "1706.03762",
            "section 3.5",
            authors="Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and Uszkoreit, Jakob and Jones, Llion and "
            "Gomez, Aidan N. and Kaiser, Lukasz and Polosukhin, Illia",
        ),
        what="Sines and cosines of the position are added to the tokens.",
        formula="x'_n[2m] = x_n[2m] + sin(n base^(-2m / C)),  x'_n[2m + 1] = x_n[2m + 1] + cos(n base^(-2m / C))",
        cross=True,
        cost=Cost(time=1, state=0),
        limits=(Limit("sinusoidal"),),
    )

    def __init__(self, dim: int, *, base: float = 10000.0) -> None:
        super().__init__()
        self.base = base
        if dim % 2:
            raise ShapeError(
                f"SinusoidalPosition pairs a sine with a cosine, so dim must be even; got {dim}. Type dim={dim + 1}."
            )
        if not base > 1:
            raise ValueError(f"SinusoidalPosition.base must be greater than 1; got {base}. Type base=10000.0.")

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        steps = frequencies(tokens.shape[-1], self.base, tokens)
        angles = positions[..., None].to(steps.dtype) * steps
        waves = torch.stack([angles.sin(), angles.cos()], -1).flatten(-2)
        return (tokens.to(steps.dtype) + waves).to(tokens.dtype)
