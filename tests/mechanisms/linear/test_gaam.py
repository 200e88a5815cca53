"""Gaussian adaptive attention: its weights over tokens and over any axis, and which features matter."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.errors import ShapeError
from regard.mechanisms.linear import AdaptiveGaussians, GaussianAdaptiveAttention
from regard.mechanisms.linear.gaam import gaussian_weights, importance


def _tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _layer(**settings: object) -> GaussianAdaptiveAttention:
    torch.manual_seed(0)
    layer = GaussianAdaptiveAttention(8, 2, **settings).double()  # type: ignore[arg-type]
    layer.shift.data.normal_()
    return layer


def test_weights_are_shares_over_the_tokens_and_do_not_move_with_them() -> None:
    layer, x = _layer(), _tokens(2, 9, 8)
    weights = layer.weights(x)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 8, dtype=torch.float64))
    torch.testing.assert_close(layer.weights(x + 5), weights)
    moved = layer.shift.data.clone()
    layer.shift.data = 3 * moved
    torch.testing.assert_close(layer.weights(3 * x), weights, rtol=1e-6, atol=1e-6)
    layer.shift.data.zero_()
    torch.testing.assert_close(layer.weights(3 * x), layer.weights(x), rtol=1e-6, atol=1e-6)


def test_each_group_of_features_has_its_own_bells() -> None:
    layer, x = _layer(), _tokens(2, 9, 8)
    for group in range(2):
        own = slice(4 * group, 4 * group + 4)
        want = gaussian_weights(x[..., own].transpose(1, 2), layer.shift[group], layer.log_width[group].exp())
        torch.testing.assert_close(layer.weights(x)[..., own], want.transpose(1, 2))


def test_wide_bells_weigh_all_alike() -> None:
    layer, x = _layer(), _tokens(2, 9, 8)
    layer.log_width.data.fill_(12.0)
    torch.testing.assert_close(layer(x), x / 9, rtol=1e-6, atol=1e-6)


def test_equal_bells_are_one_that_is_narrower() -> None:
    x, shift, width = _tokens(4, 9), torch.tensor([0.3]).double(), torch.tensor([1.7]).double()
    many = gaussian_weights(x, shift.expand(4), width.expand(4))
    torch.testing.assert_close(many, gaussian_weights(x, shift, width / 2))


def test_one_bell_without_a_shift_falls_with_the_distance_from_the_mean() -> None:
    x = _tokens(30)
    weights = gaussian_weights(x, torch.zeros(1), torch.ones(1))
    assert torch.equal(weights.argsort(descending=True), (x - x.mean()).abs().argsort())


def test_outliers_and_constant_rows_are_finite() -> None:
    layer = GaussianAdaptiveAttention(8, 2)
    x = _tokens(1, 9, 8).float()
    x[0, 3] = 1e6
    assert torch.isfinite(layer(x)).all()
    same = torch.full((1, 9, 8), 3.0, requires_grad=True)
    torch.testing.assert_close(layer(same), same / 9)
    (slope,) = torch.autograd.grad(layer(same).sum(), same)
    assert torch.isfinite(slope).all()


@pytest.mark.parametrize("axis", [-1, 1, 0])
def test_any_axis_can_be_weighed_in_stretches(axis: int) -> None:
    torch.manual_seed(0)
    x = _tokens(7, 7, 7)
    part = AdaptiveGaussians(7, 3, axis=axis, gaussians=2).double()
    part.shift.data.normal_()
    weights = part.weights(x).movedim(axis, -1)
    for head, own in enumerate((slice(0, 2), slice(2, 4), slice(4, 7))):
        torch.testing.assert_close(weights[..., own].sum(-1), torch.ones(7, 7, dtype=torch.float64))
        y = x.movedim(axis, -1)[..., own]
        d = ((y - y.mean(-1, keepdim=True))[..., None] - part.shift[head]) / y.std(-1, keepdim=True)[..., None]
        want = torch.distributions.Normal(0.0, part.log_width[head].exp()).log_prob(d).sum(-1).softmax(-1)
        torch.testing.assert_close(weights[..., own], want, rtol=1e-6, atol=1e-6)
    added = AdaptiveGaussians(7, 3, axis=axis, residual=True).double()
    added.load_state_dict(part.state_dict())
    torch.testing.assert_close(added(x), part(x) + x)


def test_what_is_not_real_has_no_part_and_passes() -> None:
    torch.manual_seed(0)
    part, x = AdaptiveGaussians(6).double(), _tokens(3, 6)
    real = torch.tensor([True, True, False, True, True, False])
    got = part(x, real)
    assert torch.equal(got[:, ~real], x[:, ~real])
    short = AdaptiveGaussians(4).double()
    short.load_state_dict(part.state_dict())
    torch.testing.assert_close(got[:, real], short(x[:, real]))


def test_importance_ranks_what_a_task_needs() -> None:
    torch.testing.assert_close(importance(torch.tensor([[0.1, 0.5, 0.4], [0.1, 0.3, 0.6]])), torch.tensor([0, 0.75, 1]))
    torch.manual_seed(0)
    x = torch.randn(512, 6)
    x[:, 3:] = x[:, 3:] + 4  # two kinds of features, of which the first decide
    labels = (x[:, :3].sum(1) > 0).long()
    part, head = AdaptiveGaussians(6, gaussians=1, spread="one"), torch.nn.Linear(6, 2)
    torch.nn.init.eye_(head.weight)
    tuner = torch.optim.Adam([*part.parameters(), *head.parameters()], 0.05)
    for _ in range(150):
        tuner.zero_grad()
        torch.nn.functional.cross_entropy(head(6 * part(x)), labels).backward()
        tuner.step()
    factor = importance(part.weights(x).detach())
    assert factor[:3].min() > factor[3:].max()


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="gaussians must be at least 1; got 0"):
        _layer(gaussians=0)
    with pytest.raises(ValueError, match=r"spread must be one of 'random', 'one'; got 'wide'"):
        _layer(spread="wide")
    with pytest.raises(ValueError, match="heads must be 1 to 4, the size of the axis; got 5"):
        AdaptiveGaussians(4, 5)
    with pytest.raises(ValueError, match="gaussians must be at least 1; got 0"):
        AdaptiveGaussians(4, gaussians=0)
    with pytest.raises(ValueError, match="widths above 0; got"):
        gaussian_weights(torch.ones(3), torch.zeros(1), torch.zeros(1))
    with pytest.raises(ShapeError, match=r"takes 4 entries along axis 2; got \[2, 4\]"):
        AdaptiveGaussians(4, axis=2)(torch.ones(2, 4))
