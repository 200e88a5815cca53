"""Distances, entropies and correlations of heads, of weights and features whose measures are known."""

from __future__ import annotations

import math

import pytest
import torch

from regard.errors import ShapeError
from regard.lens import attention_distance, attention_entropy, pwcca


def test_distances_and_entropies_of_known_weights() -> None:
    own, far = torch.eye(4), torch.eye(4).flip(0)
    both = torch.stack([own, far, torch.full((4, 4), 0.25)])
    torch.testing.assert_close(attention_distance(both), torch.tensor([0.0, 2.0, 1.25]))
    torch.testing.assert_close(attention_entropy(both), torch.tensor([0.0, 0.0, math.log(4)]))
    time = torch.tensor([0, 0, 1, 1])
    torch.testing.assert_close(attention_distance(both, time), torch.tensor([0.0, 1.0, 0.5]))
    torch.testing.assert_close(attention_distance(own[:2], keys=torch.tensor([1, 2, 3, 4])), torch.tensor(1.0))
    with pytest.raises(ShapeError, match=r"must be \[4\] and \[4\]"):
        attention_distance(own, torch.arange(3))


def test_correlation_does_not_know_maps() -> None:
    source = torch.Generator().manual_seed(0)
    x, y, m = (torch.randn(*shape, generator=source).double() for shape in ((200, 5), (200, 4), (5, 5)))
    y[:, :2] += x[:, :2]
    torch.testing.assert_close(float(pwcca(x, x @ m + 3)), 1.0)
    torch.testing.assert_close(float(pwcca(x, y @ m[:4, :4])), float(pwcca(x, y)))
    assert 0 < pwcca(x, y) < 1
    with pytest.raises(ShapeError, match="more samples than features"):
        pwcca(x[:5], y[:5])


def test_correlation_weighs_directions_by_what_they_tell() -> None:
    """Of two independent columns one is known to y: the weights are those columns' sizes."""
    t = torch.arange(64).double()
    one, two, other = (torch.cos(2 * math.pi * f * t / 64) for f in (1, 2, 3))
    found = pwcca(torch.stack([3 * one, two], 1), torch.stack([one, other], 1))
    torch.testing.assert_close(float(found), 0.75)


def test_correlation_of_features_that_depend_on_each_other() -> None:
    x = torch.randn(50, 2, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(float(pwcca(torch.cat([x, x], 1), x)), 1.0)
