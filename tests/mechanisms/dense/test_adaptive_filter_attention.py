"""Attention as an adaptive filter: what the spec can't say."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

import regard
from regard.errors import ShapeError
from regard.mechanisms import Layer
from regard.mechanisms.dense import AdaptiveFilterAttention
from regard.testing.subject import stir

DIM, HEADS = 32, 4


def tokens(length: int = 10, seed: int = 0) -> Tensor:
    return torch.randn(1, length, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(stirred: bool = True, **settings: object) -> Layer:
    torch.manual_seed(1)
    layer = regard.create("adaptive_filter_attention", dim=DIM, heads=HEADS, **settings).double()
    return stir(layer, 2) if stirred else layer


@pytest.mark.parametrize("causal", [True, False])
def test_only_differences_of_times_count(causal: bool) -> None:
    layer, x = made(), tokens()
    at = torch.tensor([0, 1, 4, 5, 9, 10, 11, 20, 21, 30])
    assert torch.allclose(
        layer(x, causal=causal, positions=at), layer(x, causal=causal, positions=at + 1000), atol=1e-9
    )
    assert not torch.allclose(layer(x, causal=causal, positions=at), layer(x, causal=causal), atol=1e-4)


def test_a_system_that_decays_at_once_brings_nothing_of_others() -> None:
    layer, x = made(steps=1, gain=False), tokens()
    with torch.no_grad():
        layer.get_parameter("decay").fill_(-50.0)  # 5 a step: over 20 steps e^-100 of a value arrives
    at = torch.arange(10) * 20
    out, own = layer(x, causal=True, positions=at), x @ layer.get_submodule("v").weight.T
    heads = torch.linalg.solve(layer.get_submodule("out").weight, out[0].T).T.unflatten(-1, (HEADS, 8))
    share = heads / own[0].unflatten(-1, (HEADS, 8))  # each head: its own value times the weight it has left for it
    assert torch.allclose(share, share[..., :1].expand_as(share), rtol=1e-6)
    assert bool(((share > 0) & (share <= 1 + 1e-9)).all())


def test_an_outlier_weighs_more_by_a_logarithm_than_by_a_square() -> None:
    """The robust weight of a far key falls with a power, the Gaussian one exponentially."""
    shares = []
    for robust in (True, False):
        layer = made(False, robust=robust, gain=False, decay=False, process=False, frequencies="none")
        with torch.no_grad():
            for name in ("q", "k", "v", "out"):
                layer.get_submodule(name).weight.copy_(torch.eye(DIM))
        x = torch.zeros(1, 3, DIM, dtype=torch.float64)
        x[0, 1] = 6.0  # the outlier
        x[0, 2] = 0.01
        base = layer(x, causal=True)[0, 2, 0]
        shares.append(float((base - 0.01 / 3) / 6.0))
    assert shares[0] > 10 * max(shares[1], 0.0)


def test_a_small_decay_meets_none() -> None:
    none = made(False, decay=False)
    little = made(False, steps=10**7)
    little.load_state_dict({**little.state_dict(), **none.state_dict()})
    with torch.no_grad():
        little.get_parameter("decay").fill_(50.0)  # the least decay there is, 1e-5 a step
        if "frequency" in dict(none.named_parameters()):
            for layer in (none, little):
                layer.get_parameter("frequency").zero_()
    x = tokens()
    assert float((none(x, causal=True) - little(x, causal=True)).abs().max()) < 1e-3


def test_a_prediction_is_carried_one_step_on() -> None:
    now, ahead = made(), made(predict=True)
    ahead.load_state_dict(now.state_dict())
    x = tokens()
    heads = []
    for layer in (now, ahead):
        joined = torch.linalg.solve(layer.get_submodule("out").weight, layer(x, causal=True)[0].T).T
        real, imaginary = joined.unflatten(-1, (HEADS, 2, 4)).unbind(2)
        heads.append(torch.complex(real, imaginary))
    step = heads[1] / heads[0]  # e^(lam dt), the same at every token
    assert torch.allclose(step, step[:1].expand_as(step), rtol=1e-6)
    alpha = (1 - torch.sigmoid(now.get_parameter("decay"))) * 5 / 1024 + 1e-5
    assert torch.allclose(step[0].abs(), (-alpha).exp()[:, None].expand(-1, 4), rtol=1e-9)
    turn = now.get_parameter("frequency") * 10 * 2 * math.pi / 2048
    assert torch.allclose(step[0].angle(), torch.cat([turn, -turn], -1), atol=1e-9)
    assert torch.allclose(step[0].log(), now.eigenvalues, atol=1e-9)  # type: ignore[attr-defined]


def test_the_filter_shuts_out_all_but_the_own_value() -> None:
    layer, x = made(), tokens()
    with torch.no_grad():
        layer.get_parameter("gain").fill_(-1e3)
    want = x @ layer.get_submodule("v").weight.T @ layer.get_submodule("out").weight.T
    assert torch.allclose(layer(x, causal=True), want, atol=1e-9)


def test_wrong_settings_say_what_to_type() -> None:
    with pytest.raises(ShapeError, match="is odd. Type dim="):
        AdaptiveFilterAttention(20, 4)
    with pytest.raises(ValueError, match="Type residual='product', robust=False"):
        AdaptiveFilterAttention(32, 4, residual="product")
    with pytest.raises(ValueError, match="frequencies must be one of .*; got 'fourier'"):
        AdaptiveFilterAttention(32, 4, frequencies="fourier")
    with pytest.raises(ValueError, match="steps must be at least 1; got 0"):
        AdaptiveFilterAttention(32, 4, steps=0)
    with pytest.raises(ValueError, match="position 2 follows 5. Sort the tokens, or type causal=False"):
        made()(tokens(3), causal=True, positions=torch.tensor([0, 5, 2]))


def test_parameters() -> None:
    count = sum(p.numel() for p in made().parameters())
    assert count == 4 * DIM**2 + HEADS * (1 + 3 + 1 + 1 + 1) + HEADS * (DIM // HEADS // 2 // 2)
    assert math.isclose(float(made(False).get_parameter("sharpness").mean()), 1.0)
