"""Linear global attention: its bound, and the blocks of L2ViT around it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regard.errors import ShapeError
from regard.mechanisms import Call
from regard.mechanisms.linear import LinearGlobalAttention, LinearGlobalBlock, LocalConcentration, LocalWindowBlock
from regard.mechanisms.linear.l2vit import concentration


def _heads(N: int = 12, D: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, N, D, generator=source, dtype=torch.float64) for _ in range(3))  # type: ignore[return-value]


def _mixed(mixer: LinearGlobalAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    zeros = q.new_zeros(2, q.shape[2], 1)
    return mixer.double()(q, k, v, Call(tokens=zeros, memory=zeros))


def test_below_the_bound_weights_are_products_over_it() -> None:
    q, k, v = _heads()
    products = q.relu() @ k.relu().transpose(-1, -2)
    assert float(products.sum(-1).max()) < 100
    torch.testing.assert_close(_mixed(LinearGlobalAttention(3, 6), q, k, v), 6**-0.5 * products @ v / 100)


def test_above_the_bound_rows_sum_to_the_temperature_and_repeated_tokens_change_nothing() -> None:
    mixer, (q, k, v) = LinearGlobalAttention(3, 6).double(), _heads()
    mixer.temperature.data = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64).view(3, 1, 1)
    q, k = 10 * q.abs(), 10 * k.abs()
    weights = mixer.weights(q, k)
    torch.testing.assert_close(weights.sum(-1), mixer.temperature[..., 0].expand(2, 3, 12))
    once = _mixed(mixer, q, k, v)
    torch.testing.assert_close(weights @ v, once)
    torch.testing.assert_close(_mixed(mixer, *(x.repeat(1, 1, 2, 1) for x in (q, k, v)))[:, :, :12], once)


def test_a_query_that_nothing_answers_gets_zeros() -> None:
    q, k, v = _heads()
    got = _mixed(LinearGlobalAttention(3, 6, min_denominator=1e-6), -q.abs(), k, v)
    assert not got.any()


def test_linear_maps_are_flatter_than_softmax_ones() -> None:
    q, k, _ = _heads(64, 16)
    linear, top = concentration(LinearGlobalAttention(3, 16).double().weights(q, k), top=5)
    plain, plain_top = concentration((q @ k.transpose(-1, -2) / 4).softmax(-1), top=5)
    sharp, _ = concentration((4 * q @ k.transpose(-1, -2)).softmax(-1))
    assert linear.shape == (2, 3)
    assert bool((sharp < plain).all())
    assert bool((sharp < linear).all())
    assert bool((top < 1).all() and (plain_top < 1).all())
    even, share = concentration(torch.ones(4, 8), top=2)
    assert (float(even), float(share)) == (pytest.approx(torch.log(torch.tensor(8.0)).item()), 0.25)


def test_concentration_is_two_convolutions_of_each_channel() -> None:
    torch.manual_seed(0)
    local = LocalConcentration(4).double().eval()
    x = torch.randn(1, 90, 4, dtype=torch.float64, requires_grad=True)
    out = local(x, (9, 10))
    (slope,) = torch.autograd.grad(out.unflatten(1, (9, 10))[0, 8, 9, 2], x)
    reached = slope.unflatten(1, (9, 10))[0].abs() > 0
    assert not reached[..., [0, 1, 3]].any()
    assert reached[2:, 3:, 2].all()
    assert int(reached.sum()) <= 7 * 7


def test_a_block_without_convolutions_is_plain_attention_and_a_feed_forward_part() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 12, 8, dtype=torch.float64)
    whole = LocalWindowBlock(8, 2, window=4).double()
    for part in (whole.position, whole.again):
        nn.init.zeros_(part.weight)
    plain = nn.MultiheadAttention(8, 2, batch_first=True, dtype=torch.float64)
    plain.in_proj_weight, plain.in_proj_bias, plain.out_proj = whole.qkv.weight, whole.qkv.bias, whole.out  # type: ignore[assignment]
    grid = torch.cat([x, x[:, :4]], 1)  # 4 x 4: one window
    y = grid + plain(*[whole.norm(grid)] * 3, need_weights=False)[0]
    torch.testing.assert_close(whole(grid, (4, 4)), y + whole.feed(y))


def test_windows_see_themselves_and_their_filling_only() -> None:
    torch.manual_seed(0)
    block = LocalWindowBlock(8, 2, window=3).double()
    x = torch.randn(1, 20, 8, dtype=torch.float64, requires_grad=True)
    out = block._windows(x, (4, 5))
    (slope,) = torch.autograd.grad(out.unflatten(1, (4, 5))[0, 1, 4].sum(), x)
    seen = slope.unflatten(1, (4, 5))[0].abs().sum(-1) > 0
    want = torch.zeros(4, 5, dtype=torch.bool)
    want[:3, 3:] = True
    assert torch.equal(seen, want)
    qkv = block.qkv(torch.cat([x[:, [3, 4, 8, 9, 13, 14]], x.new_zeros(1, 3, 8)], 1))
    q, k, v = (part.unflatten(-1, (2, 4)).transpose(1, 2) for part in qkv.chunk(3, -1))
    want_out = block.out(((q @ k.transpose(-1, -2) / 2).softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(out[:, 9], want_out[:, 3])


def test_the_global_block_adds_its_parts_in_turn() -> None:
    torch.manual_seed(0)
    block, plain = LinearGlobalBlock(8, 2).double().eval(), LinearGlobalBlock(8, 2, concentrate=False).double().eval()
    plain.load_state_dict({n: p for n, p in block.state_dict().items() if not n.startswith("local")})
    x = torch.randn(2, 20, 8, dtype=torch.float64)
    assert not torch.allclose(block(x, (4, 5)), plain(x, (4, 5)))
    nn.init.zeros_(block.local.second.weight)  # type: ignore[union-attr]
    torch.testing.assert_close(block(x, (4, 5)), plain(x, (4, 5)))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="min_denominator must be above 0; got 0"):
        LinearGlobalAttention(2, 4, min_denominator=0)
    with pytest.raises(ValueError, match="window must be at least 1; got 0"):
        LocalWindowBlock(8, 2, window=0)
    with pytest.raises(ValueError, match="kernel must be odd and at least 1; got 4"):
        LocalConcentration(8, kernel=4)
    with pytest.raises(ShapeError, match="12 tokens are no grid of 3 x 5"):
        LocalConcentration(8)(torch.zeros(1, 12, 8), (3, 5))
    with pytest.raises(ShapeError, match="not a multiple of heads=3"):
        LinearGlobalBlock(8, 3)
