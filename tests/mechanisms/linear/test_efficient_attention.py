"""Efficient attention: its maps and weights, pooling at its limits, and what grows with the tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.mechanisms import Call
from regard.mechanisms.linear import EfficientAttention


def _heads(N: int, D: int = 6, E: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, N, w, generator=source, dtype=torch.float64) for w in (D, D, E))  # type: ignore[return-value]


def _mixed(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False, normalise: str = "softmax") -> Tensor:
    call = Call(tokens=q.new_zeros(2, q.shape[2], 1), memory=q.new_zeros(2, k.shape[2], 1), causal=causal)
    return EfficientAttention(normalise=normalise)(q, k, v, call)


def test_the_implied_weights_are_shares_of_low_rank() -> None:
    q, k, v = _heads(20)
    weights = EfficientAttention().weights(q, k)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 20, dtype=torch.float64))
    assert int(torch.linalg.matrix_rank(weights).max()) <= 6
    torch.testing.assert_close(weights @ v, _mixed(q, k, v))


def test_each_feature_of_the_keys_is_a_map_over_what_is_real() -> None:
    _, k, _ = _heads(7)
    real = torch.tensor([[True] * 5 + [False] * 2])
    maps = EfficientAttention().maps(k, real)
    torch.testing.assert_close(maps[..., :5], k[:, :, :5].transpose(-1, -2).softmax(-1))
    assert not maps[..., 5:].any()


def test_one_feature_is_one_pool_for_all_queries() -> None:
    q, k, v = _heads(9, D=1)
    pooled = (k.softmax(2) * v).sum(2, keepdim=True)
    torch.testing.assert_close(_mixed(q, k, v), pooled.expand_as(v))


def test_equal_keys_give_the_mean_of_the_values_and_one_token_its_own() -> None:
    q, k, v = _heads(9)
    torch.testing.assert_close(_mixed(q, torch.ones_like(k), v), v.mean(2, keepdim=True).expand_as(v))
    q, k, v = _heads(1)
    torch.testing.assert_close(_mixed(q, k, v), v)


def test_scaling_is_attention_with_plain_products() -> None:
    q, k, v = _heads(8)
    got = _mixed(q, k, v, causal=True, normalise="scaling")
    products = (q @ k.transpose(-1, -2)).tril()
    torch.testing.assert_close(got, products @ v / torch.arange(1, 9)[:, None])


def test_the_order_of_the_tokens_has_no_part_in_it() -> None:
    q, k, v = _heads(10)
    other = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(_mixed(q, k[:, :, other], v[:, :, other]), _mixed(q, k, v))


def test_large_keys_keep_their_differences_in_causal_order() -> None:
    q, k, v = _heads(10)
    torch.testing.assert_close(_mixed(q, k + 1e4, v, causal=True), _mixed(q, k, v, causal=True), rtol=1e-6, atol=1e-6)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match=r"EfficientAttention.normalise must be one of 'softmax', 'scaling'; got 'l2'"):
        EfficientAttention(normalise="l2")
    with pytest.raises(ValueError, match="of 9 keys is large. Type most=9"):
        EfficientAttention().weights(*_heads(9)[:2], most=8)
