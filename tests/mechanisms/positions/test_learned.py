"""Learned positions: their end."""

from __future__ import annotations

import pytest
import torch

from regard.layers import create
from regard.mechanisms.positions import LearnedPosition


def test_the_table_has_one_vector_a_position():
    position = LearnedPosition(6, length=5)
    assert [p.shape for p in position.parameters()] == [(5, 6)]
    x = torch.zeros(1, 3, 6)
    assert torch.equal(position.embed(x, torch.tensor([[4, 0, 2]]))[0], position.table[[4, 0, 2]])


def test_a_position_past_the_end_is_refused_with_what_to_type():
    layer = create("learned", dim=8, heads=2, length=4)
    layer(torch.randn(1, 4, 8))
    with pytest.raises(ValueError, match=r"positions 0 to 3; got position 4. Type length=5 or more"):
        layer(torch.randn(1, 5, 8))
    _, state = layer.prefill(torch.randn(1, 4, 8))
    with pytest.raises(ValueError, match="got position 4"):
        layer.step(state, torch.randn(1, 1, 8))


def test_a_table_without_positions_is_refused():
    with pytest.raises(ValueError, match="length must be at least 1; got 0"):
        LearnedPosition(8, length=0)
