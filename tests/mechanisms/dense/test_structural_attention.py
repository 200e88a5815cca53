"""Structural attention as a mixer: what a setting can't do is refused."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.errors import Unsupported


def made(**settings: object) -> regard.layers.Attention:
    torch.manual_seed(0)
    return regard.create("structural_attention", dim=16, heads=2, **settings)


def test_assigning_keys_to_queries_is_neither_causal_nor_step_by_step() -> None:
    layer, x = made(family="assign"), torch.randn(2, 5, 16)
    assert layer(x).shape == x.shape
    with pytest.raises(Unsupported, match="Type causal=False, or another family"):
        layer(x, causal=True)
    with pytest.raises(Unsupported, match="can't decode step by step"):
        layer.init_state(2)


def test_following_edges_needs_the_whole_sequence() -> None:
    layer, x = made(value="multihop"), torch.randn(2, 5, 16)
    assert layer(x, causal=True).shape == x.shape
    with pytest.raises(Unsupported, match="or type value='sum'"):
        layer(x, torch.randn(2, 7, 16))
    with pytest.raises(Unsupported, match="can't decode step by step"):
        layer.init_state(2)


def test_sampled_edges_come_from_the_generator() -> None:
    layer, x = made(inference="sample"), torch.randn(2, 5, 16)
    runs = [layer(x, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_learned_geometric_prior_prefers_the_near() -> None:
    layer = made(prior="geometric")
    with torch.no_grad():
        layer.projection.q.weight.zero_()
        layer.mixer.rate.fill_(2.0)
    x = torch.randn(1, 9, 16)
    near = x @ layer.projection.v.weight.T @ layer.merge.out.weight.T
    rate = torch.sigmoid(torch.tensor(2.0))
    weights = (1 - rate) ** torch.arange(9).flip(0)
    want = (weights / weights.sum()) @ near[0]
    assert torch.allclose(layer(x, causal=True)[0, -1], want, atol=1e-5)


def test_wrong_words() -> None:
    with pytest.raises(ValueError, match="StructuralAttention.prior must be one of 'uniform', 'geometric', 'beta'"):
        made(prior="flat")
    with pytest.raises(ValueError, match="StructuralAttention: family must be one of"):
        made(family="some")
