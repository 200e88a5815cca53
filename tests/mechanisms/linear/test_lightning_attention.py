"""Lightning Attention: blocks, rates by layer, and what TransNormer puts around it."""

from __future__ import annotations

import pytest
import torch

from regard.errors import ShapeError
from regard.layers import create
from regard.mechanisms import Call
from regard.mechanisms.linear import LightningAttention, LightningAttention2
from regard.mechanisms.linear.lightning_attention import SimpleGatedUnit, simple_rms_norm


def parts(N: int = 13, heads: int = 2, width: int = 3) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return [torch.randn(2, heads, N, width, generator=source, dtype=torch.float64) for _ in range(3)]


def causal(q: torch.Tensor) -> Call:
    tokens = q.transpose(1, 2).flatten(2)
    return Call(tokens=tokens, memory=tokens, causal=True)


def masked(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, rates: list[float]) -> torch.Tensor:
    """The quadratic definition: ((q k^T) * M) v, M[t, j] = exp(-rate (t - j)) for j <= t."""
    far = torch.arange(q.shape[2])[:, None] - torch.arange(q.shape[2])
    M = torch.stack([torch.where(far >= 0, (-rate * far.double()).exp(), 0.0) for rate in rates])
    return ((q @ k.transpose(-1, -2)) * M) @ v


@pytest.mark.parametrize("block", [1, 2, 8, 16, None])
def test_any_block_is_the_masked_square_with_its_gradients(block):
    given = [x.requires_grad_() for x in parts()]
    mixer = LightningAttention2(2, slopes=(0.3, 2.0), block=block)
    out, want = mixer(*given, causal(given[0])), masked(*given, [0.3, 2.0])
    torch.testing.assert_close(out, want, rtol=0, atol=1e-12)
    weight = torch.randn(out.shape, dtype=out.dtype)
    for got, right in zip(
        torch.autograd.grad((out * weight).sum(), given), torch.autograd.grad((want * weight).sum(), given), strict=True
    ):
        torch.testing.assert_close(got, right, rtol=0, atol=1e-11)


def test_a_state_handed_over_goes_on():
    q, k, v = parts()
    mixer = LightningAttention2(2)
    whole = mixer(q, k, v, causal(q))
    first, state = mixer.step(None, q[:, :, :5], k[:, :, :5], v[:, :, :5], causal(q[:, :, :5]))
    rest, after = mixer.step(state, q[:, :, 5:], k[:, :, 5:], v[:, :, 5:], causal(q[:, :, 5:]))
    torch.testing.assert_close(torch.cat([first, rest], 2), whole, rtol=0, atol=1e-12)
    assert list(after.values.shape) == [2, 2, 3, 3]


def test_what_forgets_fast_stays_finite_at_length():
    source = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 1, 65536, 2, generator=source) for _ in range(3))
    out = LightningAttention2(1, slopes=30.0)(q, k, v, causal(q))
    torch.testing.assert_close(out, (q * k).sum(-1, keepdim=True) * v, rtol=1e-5, atol=1e-5)


def test_later_layers_forget_less_and_the_last_hardly():
    mixer = LightningAttention2(4, layers=3)
    like = torch.zeros(1, dtype=torch.float64)
    slopes = torch.tensor([0.25, 0.0625, 0.015625, 0.00390625], dtype=torch.float64)
    for layer, less in enumerate((1 + 1e-5, 0.5 + 1e-5, 1e-5)):
        torch.testing.assert_close(mixer.decay(layer, like), -less * slopes, rtol=0, atol=1e-15)
        torch.testing.assert_close(
            LightningAttention(32, 4, layers=3).decay(layer, like), -less * slopes, rtol=0, atol=1e-15
        )
    with pytest.raises(ValueError, match="This is layer 3, and layers=3 were named"):
        mixer.decay(3, like)
    assert LightningAttention2(4, layers=1).decay(0, like)[0] == pytest.approx(-0.25 * (1 + 1e-5))


def test_a_call_takes_the_rates_of_its_layer():
    layer, x = create("lightning_attention", dim=16, heads=4, layers=2), torch.randn(1, 9, 16)
    assert (layer(x, causal=True, layer=0) - layer(x, causal=True, layer=1)).abs().max() > 1e-4


def test_angles_turn_in_the_first_layer_alone():
    layer = create("lightning_attention", dim=16, heads=4, lrpe=True, slopes=0.0).double()
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    plain = create("lightning_attention", dim=16, heads=4, slopes=0.0).double()
    plain.load_state_dict(layer.state_dict(), strict=False)
    torch.testing.assert_close(layer(x, causal=True, layer=1), plain(x, causal=True), rtol=0, atol=1e-12)
    assert (layer(x, causal=True, layer=0) - plain(x, causal=True)).abs().max() > 1e-3


def test_parameters_of_the_layer_and_of_the_unit():
    layer = create("lightning_attention", dim=32, heads=4)
    assert sum(p.numel() for p in layer.parameters()) == 4 * 32 * 32 + 2 * 32 * 8
    unit = SimpleGatedUnit(6)
    assert sum(p.numel() for p in unit.parameters()) == 3 * 6 * 16
    x = torch.randn(5, 6)
    torch.testing.assert_close(unit(2 * x), 4 * unit(x))  # no activation: of second degree


def test_the_norm_has_no_gain():
    x = torch.randn(3, 8, dtype=torch.float64) * 50
    torch.testing.assert_close(
        simple_rms_norm(x).square().mean(-1), torch.ones(3, dtype=torch.float64), rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: LightningAttention2(4, slopes=-1.0),
            "slopes must be one number of at least 0, or 4 of them.*got -1.0",
        ),
        (lambda: LightningAttention2(4, slopes=(0.1, 0.2)), r"or 4 of them, one for each head; got \(0.1, 0.2\)"),
        (lambda: LightningAttention2(4, block=3), "block must be a power of two such as 64; got 3"),
        (lambda: LightningAttention2(4, layers=0), "layers must be at least 1; got 0"),
        (lambda: LightningAttention(32, 4, slopes=-0.5), "slopes must be one number of at least 0"),
        (lambda: LightningAttention(32, 4, values="relu"), "values must be one of 'linear', 'swish'; got 'relu'"),
        (lambda: LightningAttention(32, 4, gate=0), "gate must be at least 1; got 0"),
        (lambda: LightningAttention(32, 4, eps=0), "eps must be above 0; got 0"),
        (lambda: LightningAttention(30, 4), "dim=30 is not a multiple of heads=4"),
    ],
)
def test_bad_settings_are_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_other_heads_than_it_was_made_for_are_named():
    q, k, v = parts()
    with pytest.raises(ShapeError, match="made for 4 query heads; got 2"):
        LightningAttention2(4)(q, k, v, causal(q))
