"""Sinusoidal positions: one shift is one linear map."""

from __future__ import annotations

import pytest
import torch

from regard.errors import ShapeError
from regard.mechanisms.positions import SinusoidalPosition


def waves(at: list[int], dim: int = 12) -> torch.Tensor:
    return SinusoidalPosition(dim).embed(torch.zeros(1, len(at), dim, dtype=torch.float64), torch.tensor([at]))[0]


def test_vectors_have_one_length_and_products_know_the_distance_alone():
    x = waves([0, 1, 7, 30, 31, 37])
    assert torch.allclose(x.square().sum(-1), torch.full((6,), 6.0, dtype=torch.float64))
    assert torch.allclose(x[:3] @ x[:3].T, x[3:] @ x[3:].T)


def test_position_zero_is_sines_of_zero_and_cosines_of_one():
    assert waves([0])[0].tolist() == [0.0, 1.0] * 6


def test_odd_widths_and_flat_bases_are_refused():
    with pytest.raises(ShapeError, match="even; got 7. Type dim=8"):
        SinusoidalPosition(7)
    with pytest.raises(ValueError, match="greater than 1; got 0.5"):
        SinusoidalPosition(8, base=0.5)
