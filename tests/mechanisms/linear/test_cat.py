"""Circular-convolutional attention: both forms, what it can and can't tell apart, and the circle across sequences."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.mechanisms.linear import CircularConvolutionalAttention as CAT
from regard.mechanisms.linear.cat import circular_cross


def _layer(**settings: object) -> CAT:
    torch.manual_seed(0)
    return CAT(24, 3, **settings).double()  # type: ignore[arg-type]


def _tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("keys", ["merged", "averaged"])
@pytest.mark.parametrize("causal", [False, True])
def test_the_transform_and_gathering_give_the_same(keys: str, causal: bool) -> None:
    made = []
    for form in ("fft", "gather"):
        layer, x = _layer(form=form, keys=keys), _tokens(2, 11, 24).requires_grad_()
        out = layer(x, causal=causal, padding=torch.arange(11) < torch.tensor([[11], [7]]))[0]
        made.append((out, torch.autograd.grad(out.square().sum(), x)[0]))
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_rolling_the_values_rolls_the_output() -> None:
    layer, x = _layer(), _tokens(1, 10, 24)
    layer.score.weight.data[:, 12:] = 0  # scores from one half of the features, values from the other
    layer.v.weight.data[:, :12] = 0
    rolled = torch.cat([x[..., :12], x[..., 12:].roll(3, 1)], -1)
    torch.testing.assert_close(layer(rolled), layer(x).roll(3, 1))


def test_a_score_far_above_the_others_rolls_the_values_by_its_place() -> None:
    layer, x = _layer(), _tokens(1, 10, 24)
    x[..., 0] = 0
    x[:, 4, 0] = 1e4
    layer.score.weight.data.zero_()[:, 0] = 1.0
    torch.testing.assert_close(layer(x), layer.out(layer.v(x)).roll(-4, 1))


def test_one_token_is_its_own_value() -> None:
    x = _tokens(2, 1, 24)
    for causal in (False, True):
        layer = _layer()
        torch.testing.assert_close(layer(x, causal=causal), layer.out(layer.v(x)))


def test_weights_are_shares_of_the_tokens() -> None:
    weights = _layer().weights(_tokens(2, 9, 24))
    assert weights.shape == (2, 3, 9)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, dtype=torch.float64))


def test_queries_and_keys_are_one_column_a_head() -> None:
    assert sum(p.numel() for p in _layer().parameters()) == 24 * (24 + 3) + 24 * 24
    assert sum(p.numel() for p in _layer(keys="averaged").parameters()) == 4 * 24 * 24


def test_gathering_in_causal_order_holds_for_scores_far_apart() -> None:
    layer, x = _layer().float(), _tokens(1, 12, 24).float()
    layer.score.weight.data.zero_()[:, 0] = 1.0
    x[..., 0] = torch.tensor([0.0] * 11 + [200.0])
    torch.testing.assert_close(layer(x, causal=True)[:, :11], layer(x[:, :11], causal=True))
    torch.testing.assert_close(layer(x[:, :11], causal=True)[0, 10], layer.out(layer.v(x[:, :11])).mean(1)[0])


def test_padding_between_real_tokens_is_absent_from_the_circle() -> None:
    layer, x = _layer(), _tokens(2, 9, 24)
    real = torch.tensor([[True, False, True, True, False, False, True, True, True], [False] * 9])
    for causal in (False, True):
        got = layer(x, causal=causal, padding=real)
        torch.testing.assert_close(got[:1][real[:1]], layer(x[:1][real[:1]][None], causal=causal)[0])
        assert not got[1].any()


@pytest.mark.parametrize(("N", "M"), [(5, 5), (4, 7), (9, 4)])
def test_across_sequences_the_circle_is_the_keys(N: int, M: int) -> None:
    q, k, v = _tokens(2, 3, N, 4), _tokens(2, 3, M, 4), _tokens(2, 3, M, 6)
    got = circular_cross(q, k, v)
    for h in range(3):
        w = torch.softmax((q[0, h].mean(0) @ k[0, h].T) / 2, -1)
        for i in range(N):
            want = sum(w[(j - i) % M] * v[0, h, j] for j in range(M))
            torch.testing.assert_close(got[0, h, i], want)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"keys must be one of 'merged', 'averaged'; got 'qv'"):
        _layer(keys="qv")
    with pytest.raises(ValueError, match=r"form must be one of 'auto', 'fft', 'gather'; got 'dft'"):
        _layer(form="dft")
