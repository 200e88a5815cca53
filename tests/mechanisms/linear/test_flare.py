"""FLARE: rank, spectrum, and latents that are few, blind or matched to the tokens."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.mechanisms.linear import FastLowRankAttentionRoutingEngine as FLARE


def _layer(**settings: object) -> FLARE:
    torch.manual_seed(0)
    layer = FLARE(24, 3, **settings).double()  # type: ignore[arg-type]
    layer.latents.data *= 5
    return layer


def _tokens(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def test_the_weights_are_shares_of_rank_latents() -> None:
    layer, x = _layer(latents=4), _tokens(2, 15, 24)
    weights = layer.weights(x)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 15, dtype=torch.float64))
    assert weights.min() > 0
    assert int(torch.linalg.matrix_rank(weights).max()) <= 4
    values = layer.v(x).unflatten(-1, (3, 8)).transpose(1, 2)
    torch.testing.assert_close(layer.out((weights @ values).transpose(1, 2).flatten(2)), layer(x))


def test_the_spectrum_is_that_of_the_weights() -> None:
    layer, x = _layer(latents=4), _tokens(1, 12, 24)
    whole = torch.linalg.eigvals(layer.weights(x)).abs().sort(-1, descending=True).values
    torch.testing.assert_close(layer.spectrum(x).abs(), whole[..., :4])
    torch.testing.assert_close(layer.spectrum(x)[..., 0].real, torch.ones(1, 3, dtype=torch.float64))


@pytest.mark.parametrize("settings", [{"latents": 1}, {"latents": 6, "blind": True}])
def test_one_latent_or_blind_ones_give_all_tokens_the_same(settings: dict[str, object]) -> None:
    blind = settings.pop("blind", False)
    layer, x = _layer(**settings), _tokens(2, 9, 24)
    if blind:
        layer.latents.data.zero_()
        torch.testing.assert_close(layer(x), layer.out(layer.v(x).mean(1, keepdim=True)).expand_as(x))
    out = layer(x)
    torch.testing.assert_close(out, out[:, :1].expand_as(out))


def test_a_latent_for_every_token_hands_each_its_own_value() -> None:
    layer, x = _layer(latents=8, depth=None, scale=50.0), torch.zeros(1, 8, 24, dtype=torch.float64)
    x[..., :24] = torch.eye(8, dtype=torch.float64).repeat(1, 3)
    torch.nn.init.eye_(layer.get_parameter("k.weight"))
    layer.latents.data = torch.eye(8, dtype=torch.float64).expand(3, 8, 8).clone()
    torch.testing.assert_close(layer(x), layer.out(layer.v(x)))


def test_the_order_of_the_tokens_has_no_part_in_it() -> None:
    layer, x = _layer(), _tokens(1, 10, 24)
    other = torch.randperm(10, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(layer(x[:, other]), layer(x)[:, other])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"latents": 0}, "latents must be at least 1; got 0"),
        ({"depth": -1}, "depth must be at least 0; got -1"),
        ({"scale": 0.0}, "scale must be above 0; got 0.0"),
        ({"qk_norm": "l2"}, "qk_norm must be one of 'none', 'layer', 'rms'; got 'l2'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _layer(**settings)
