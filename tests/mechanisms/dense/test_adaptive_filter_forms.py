"""Adaptive filter attention: decay and noise by feature, other biases, real times, and what it starts from."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from regard.mechanisms import Call
from regard.mechanisms.dense.adaptive_filter_attention import AdaptiveFilterAttention
from regard.testing import subjects
from regard.testing.oracles.filtering import adaptive_filter_by_feature

(PLAIN, *_) = subjects("adaptive_filter_attention")


def layer(stirred: bool = True, **settings: object) -> AdaptiveFilterAttention:
    return PLAIN.layer(stirred=stirred, settings=settings)  # type: ignore[return-value]


def weights(made: AdaptiveFilterAttention, x: Tensor, causal: bool = False) -> Tensor:
    return made.weights(Call(tokens=x, memory=x, causal=causal))


@pytest.mark.parametrize("causal", [True, False])
def test_features_apart_equal_the_loop_in_complex_numbers(causal: bool) -> None:
    made, x = layer(anisotropic=True), PLAIN.tokens(batch=1, length=5)
    want = adaptive_filter_by_feature(made, x, None, causal)
    assert torch.allclose(made(x, causal=causal), want, atol=1e-10)


@pytest.mark.parametrize("settings", [{}, {"robust": False, "residual": "product"}, {"predict": True, "norm": True}])
def test_features_that_are_alike_are_the_isotropic_form(settings: dict[str, object]) -> None:
    made, apart = layer(**settings), layer(anisotropic=True, **settings)
    with torch.no_grad():
        for name, parameter in apart.named_parameters():
            one = made.get_parameter(name)
            parameter.copy_(one if one.shape == parameter.shape else one[..., None].expand_as(parameter))
    x = PLAIN.tokens()
    assert torch.allclose(apart(x, causal=True), made(x, causal=True), atol=1e-10)
    real = torch.tensor([[True] * 9 + [False] * 3, [True] * 12])
    out = apart(x, causal=True, padding=real)[real]
    assert torch.allclose(out, made(x, causal=True, padding=real)[real], atol=1e-10)


def test_a_feature_without_precision_has_no_say_in_the_residual() -> None:
    made, x = layer(anisotropic=True, frequencies="none", bias="none"), PLAIN.tokens(batch=1)
    with torch.no_grad():
        made.noise[:, 1:, :, 0] = 1e12
        before = weights(made, x)
        made.k.weight[0::4] *= -3.0  # the first complex feature of every head is its rows 0 and 4 of 8
        assert torch.allclose(weights(made, x), before, atol=1e-9)
        made.k.weight[1::4] *= -3.0
        assert not torch.allclose(weights(made, x), before, atol=1e-3)


def test_each_feature_of_a_value_is_weighed_by_its_own_precision() -> None:
    made, x = layer(anisotropic=True), PLAIN.tokens(batch=1)
    found = weights(made, x, causal=True)
    assert found.shape == (1, 4, 12, 12, 4)
    assert torch.allclose(found.sum(3), torch.ones(1, 4, 12, 4, dtype=torch.float64))
    # The ratio of two features' weights is that of their precisions, whatever the residuals are, up to the row's sum.
    alpha, gaps = -made.eigenvalues.real, torch.arange(12)[:, None, None]
    sigma2, eta2, gamma2 = (
        1e-6 + (start - 1e-6) * torch.log1p(raw.exp()) / math.log(2)
        for raw, start in zip(made.noise[0], (0.1, 0.5, 0.5), strict=True)
    )
    kept = torch.exp(-2 * alpha * gaps)
    V = sigma2 * (1 - kept) / (2 * alpha) + eta2 * kept + gamma2  # [12, H, d]
    ratio = (found[0, :, -1, :, 1] / found[0, :, -1, :, 0]).flip(-1)  # [H, 12] by distance
    want = ((V[..., 0] / V[..., 1]) ** made.sharpness.square()).T
    assert torch.allclose(ratio / ratio[:, :1], want / want[:, :1], rtol=1e-9)


def test_the_biases_are_what_they_are_called() -> None:
    x = PLAIN.tokens(batch=1)
    made = {bias: layer(bias=bias) for bias in ("none", "linear", "variance")}
    for bias in ("linear", "variance"):
        made[bias].load_state_dict(made["none"].state_dict(), strict=False)
    slope = 1e-6 + (0.1 - 1e-6) * torch.log1p(made["linear"].get_parameter("slope").exp()) / math.log(2)
    found = {bias: weights(one, x)[0].log() for bias, one in made.items()}
    gaps = (torch.arange(12)[:, None] - torch.arange(12)).abs()
    power = made["none"].sharpness.square()[:, None, None]

    def centred(t: Tensor) -> Tensor:  # what is left when the row's sum is unknown
        return t - t.mean(-1, keepdim=True)

    linear = -power * slope[:, None, None] * gaps
    assert torch.allclose(centred(found["linear"] - found["none"]), centred(linear), atol=1e-9)
    V = made["none"]._tables(gaps[None, None], x).variance[0]
    assert torch.allclose(centred(found["variance"] - found["none"]), centred(-power * V.log()), atol=1e-9)
    assert "slope" not in dict(made["variance"].named_parameters())


def test_a_position_is_a_time_in_steps_of_dt() -> None:
    x = PLAIN.tokens()
    whole, halves = (layer(decay=False, dt=dt, steps=steps) for dt, steps in ((1.0, 512), (0.5, 1024)))
    halves.load_state_dict(whole.state_dict())
    at = torch.tensor([0, 1, 2, 5, 6, 7, 11, 12, 13, 14, 30, 31])
    out = whole(x, causal=True, positions=at)
    assert torch.allclose(halves(x, causal=True, positions=2 * at), out, atol=1e-10)
    assert not torch.allclose(halves(x, causal=True, positions=at), out, atol=1e-3)
    # Between whole times too.
    odd = 2 * at + torch.tensor([0, 1] * 6)
    assert not torch.allclose(halves(x, causal=True, positions=odd), out, atol=1e-3)


def test_a_prediction_is_dt_ahead() -> None:
    now, ahead = layer(dt=0.25), layer(dt=0.25, predict=True)
    x = PLAIN.tokens()
    for made in (now, ahead):
        with torch.no_grad():
            made.out.weight.copy_(torch.eye(32))
    parts = [made(x, causal=True).unflatten(-1, (4, 2, 4)) for made in (now, ahead)]
    before, after = (torch.complex(part[..., 0, :], part[..., 1, :]) for part in parts)
    assert torch.allclose(after, torch.exp(0.25 * now.eigenvalues) * before, atol=1e-10)


def test_decay_and_variances_start_where_they_are_told() -> None:
    made = layer(False, alpha=0.02, variances=(0.3, 0.02, 0.05), steps=100, dt=2.0)
    assert torch.allclose(made.eigenvalues.real, torch.tensor(-0.02).double(), atol=1e-6)
    V = made._tables(torch.arange(9)[None, None, None], made.freedom).variance[0, 0, 0]
    t = 2.0 * torch.arange(9).double()
    want = 0.3 * (1 - torch.exp(-0.04 * t)) / 0.04 + 0.02 * torch.exp(-0.04 * t) + 0.05
    assert torch.allclose(V, want, rtol=1e-4)
    assert not layer(decay=False, frequencies="none").eigenvalues.abs().any()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"alpha": -0.1},
            r"alpha must lie between 1e-05 and 0\.00489, .*; got -0\.1\. Type another alpha, fewer steps",
        ),
        ({"alpha": 0.1, "decay": False}, r"alpha is a decay, and decay=False; got alpha=0\.1\. Type decay=True"),
        ({"variances": (0.1, -0.5, 0.5)}, r"variances must be three numbers above 1e-06.*got \(0\.1, -0\.5, 0\.5\)"),
        ({"variances": (0.1, 0.5)}, r"variances must be three numbers"),
        ({"dt": 0.0}, r"dt must be above 0; got 0\.0"),
        ({"limit": 0}, r"limit must be at least 1; got 0"),
        ({"bias": "log"}, r"bias must be one of 'variance', 'linear', 'none'; got 'log'"),
        ({"bias": "none", "separate_noise": True}, r"got bias='none'\. Type separate_noise=False, or bias='variance'"),
    ],
)
def test_settings_out_of_range_are_refused_in_words(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AdaptiveFilterAttention(32, 4, **settings)  # type: ignore[arg-type]


def test_tables_by_feature_above_the_limit_are_refused_in_words() -> None:
    made = layer(anisotropic=True, limit=2 * 4 * 12 * 12 * 4)
    made(PLAIN.tokens())
    said = r"= 5,408 numbers, above limit=4,608\. Type anisotropic=False or limit=5408, or give fewer or shorter"
    with pytest.raises(ValueError, match=said):
        made(PLAIN.tokens(length=13))
    with pytest.raises(ValueError, match=r"above limit=4,608"):
        made.weights(Call(tokens=PLAIN.tokens(length=13), memory=PLAIN.tokens(length=13)))
    _, state = made.prefill(PLAIN.tokens(length=12))
    out, _ = made.step(state, PLAIN.tokens(length=1))  # one query of 13 keys
    assert out.isfinite().all()
    AdaptiveFilterAttention(32, 4, limit=1)(torch.randn(1, 30, 32))  # tables by distance alone have no limit
