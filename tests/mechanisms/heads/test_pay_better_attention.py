"""Optimised, efficient and super attention: their parameters, their kinship with plain attention, their places."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from regard.caches import Held
from regard.errors import ShapeError, Unsupported
from regard.layers import Attention, create

C, H, L = 24, 4, 16
NAMES = ("optimised_attention", "efficient_slices", "super_attention")


def layer(name: str, **settings: object) -> Attention:
    torch.manual_seed(0)
    made = create(name, dim=C, heads=settings.pop("heads", H), **settings).double()
    assert isinstance(made, Attention)
    return made


def tokens(N: int = 9, B: int = 2) -> torch.Tensor:
    return torch.randn(B, N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_parameters():
    count = {
        name: sum(p.numel() for p in layer(name, bias=False, **extra).parameters())
        for name, extra in zip(NAMES, ({}, {}, {"length": L}), strict=True)
    }
    assert count == {
        "optimised_attention": 3 * C * C,
        "efficient_slices": 2 * C * C,
        "super_attention": 2 * C * C + L * L,
    }
    assert sum(p.numel() for p in layer("efficient_slices").parameters()) == 2 * C * C + C


def test_multiplications_of_the_projections():
    def work(name: str, **settings: object) -> int:
        made, x = layer(name, **settings), tokens(L, 1)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            made.projection.keep(x, call(x))
            made.projection.queries(x, call(x))
        return counter.get_total_flops()

    one = 2 * L * C * C
    assert work("mha") == 3 * one
    assert work("optimised_attention") == 2 * one
    assert work("efficient_slices") == one
    made, x = layer("super_attention", length=L), tokens(L, 1)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made.projection(call(x))
    assert counter.get_total_flops() == one + 2 * L * L * C


def call(x: torch.Tensor, causal: bool = False):
    from regard.mechanisms import Call

    return Call(tokens=x, memory=x, causal=causal)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_equals_torch_attention_with_identity_maps(name, causal):
    made = layer(name)
    other = nn.MultiheadAttention(C, H, batch_first=True, dtype=torch.float64)
    eye = torch.eye(C, dtype=torch.float64)
    with torch.no_grad():
        k = made.projection.k.weight if name == "optimised_attention" else eye
        other.in_proj_weight.copy_(torch.cat([made.projection.q.weight, k, eye]))
        made.projection.q.bias.normal_()
        other.in_proj_bias.copy_(torch.cat([made.projection.q.bias, torch.zeros(2 * C)]))
        other.out_proj.weight.copy_(made.merge.out.weight)
        other.out_proj.bias.zero_()
    x = tokens()
    mask = nn.Transformer.generate_square_subsequent_mask(9, dtype=torch.float64) if causal else None
    want, _ = other(x, x, x, attn_mask=mask, need_weights=False)
    torch.testing.assert_close(made(x, causal=causal), want, rtol=0, atol=1e-12)


def test_with_one_head_no_function_is_lost():
    plain, optimised, efficient = (
        layer("mha", heads=1),
        layer("optimised_attention", heads=1, bias=False),
        layer("efficient_slices", heads=1, bias=False),
    )
    q, k, v, out = (
        m.weight.detach() for m in (plain.projection.q, plain.projection.k, plain.projection.v, plain.merge.out)
    )
    with torch.no_grad():
        optimised.projection.q.weight.copy_(q)
        optimised.projection.k.weight.copy_(k)
        efficient.projection.q.weight.copy_(k.T @ q)
        for made in (optimised, efficient):
            made.merge.out.weight.copy_(out @ v)
    x = tokens()
    for made in (optimised, efficient):
        torch.testing.assert_close(made(x, causal=True), plain(x, causal=True), rtol=0, atol=1e-12)


def test_only_super_attention_knows_places():
    x, order = tokens(), torch.randperm(9, generator=torch.Generator().manual_seed(2))
    for name, extra in zip(NAMES, ({}, {}, {"init": "random", "length": L}), strict=True):
        made = layer(name, **extra)
        same = torch.allclose(made(x[:, order]), made(x)[:, order], atol=1e-12)
        assert same == (name != "super_attention")


def test_decoding_keeps_the_raw_tokens_once():
    x = tokens(5)
    for name in ("efficient_slices", "super_attention"):
        _, state = layer(name).prefill(x)
        torch.testing.assert_close(state.inner.kept.parts[0][:, 0], x, rtol=0, atol=0)
    assert [list(p.shape) for p in layer("efficient_slices").prefill(x)[1].inner.kept.parts] == [[2, 1, 5, C]]


@pytest.mark.parametrize("causal", [False, True])
def test_shorter_sequences_use_the_leading_block(causal):
    made = layer("super_attention", length=L, init="random")
    weights = made.projection.alignment.detach()[:5, :5]
    x = tokens(5)
    _, _, values = made.projection(call(x, causal))
    want = (weights.tril() if causal else weights) @ x
    torch.testing.assert_close(values.transpose(1, 2).flatten(2), want, rtol=0, atol=1e-12)
    # Places are positions, wherever a token stands.
    moved = made.projection(call(x, causal).with_(k_positions=torch.tensor([[7, 2, 3, 9, 4]])))[2]
    at = torch.tensor([7, 2, 3, 9, 4])
    block = made.projection.alignment.detach()[at][:, at]
    block = block * (at[None] <= at[:, None]) if causal else block
    torch.testing.assert_close(moved.transpose(1, 2).flatten(2), block @ x, rtol=0, atol=1e-12)


def test_what_super_attention_refuses():
    made = layer("super_attention", length=8)
    made(tokens(8))
    with pytest.raises(ValueError, match=r"length=8 has no place for position 8. Type length=9"):
        made(tokens(9))
    with pytest.raises(ValueError, match=r"no place for position 11"):
        made(tokens(3), positions=torch.tensor([0, 1, 11]))
    for settings, text in (
        ({"length": 0}, "length must be at least 1; got 0"),
        ({"init": "zeros"}, "init must be one of 'identity', 'random'; got 'zeros'"),
    ):
        with pytest.raises(ValueError, match=text):
            layer("super_attention", **settings)
    for name in NAMES:
        with pytest.raises(ShapeError, match="dim=24 is not a multiple of heads=5"):
            layer(name, heads=5)


def test_super_attention_does_not_decode_from_a_part_of_its_tokens():
    made = Attention(C, H, projection="super_attention", cache=Held(size=3)).double()
    state, x = made.init_state(2), tokens(6)
    for n in range(4):
        _, state = made.step(state, x[:, n : n + 1])
    with pytest.raises(Unsupported, match="some are no longer kept. Use a cache without a size"):
        made.step(state, x[:, 4:5])
