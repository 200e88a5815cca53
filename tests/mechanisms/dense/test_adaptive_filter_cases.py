"""Adaptive filter attention: its special cases, what it keeps invariant, and what it refuses."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from regard.errors import ShapeError
from regard.mechanisms import Call
from regard.mechanisms.dense.adaptive_filter_attention import AdaptiveFilterAttention
from regard.testing import subjects
from regard.testing.oracles.structured import adaptive_filter

(PLAIN, *_) = subjects("adaptive_filter_attention")
POINT = {"robust": False, "frequencies": "none", "decay": False, "process": False, "gain": False}  # nothing moves


def layer(stirred: bool = True, **settings: object) -> AdaptiveFilterAttention:
    return PLAIN.layer(stirred=stirred, settings=settings)  # type: ignore[return-value]


def identity(made: AdaptiveFilterAttention, *names: str) -> None:
    with torch.no_grad():
        for name in names:
            getattr(made, name).weight.copy_(torch.eye(32, dtype=torch.float64))


def heads(x: Tensor) -> Tensor:
    """Complex features [B, H, N, d] of tokens."""
    x = x.unflatten(-1, (4, -1)).transpose(1, 2)
    return torch.complex(*x.chunk(2, -1))


@pytest.mark.parametrize("causal", [True, False])
def test_it_equals_the_loop_in_complex_numbers_wherever_the_parameters_are(causal: bool) -> None:
    made, x = layer(), PLAIN.tokens(batch=1, length=7)
    assert torch.allclose(made(x, causal=causal), adaptive_filter(made, x, None, causal), atol=1e-10)


def test_weights_of_keys_of_one_length_are_those_of_complex_products() -> None:
    made, x = layer(**POINT), PLAIN.tokens(batch=1)
    identity(made, "k", "v", "out")
    # With identity keys, tokens whose heads all have length 2 have keys of length 2.
    x = 2 * torch.nn.functional.normalize(x.unflatten(-1, (4, 8)), dim=-1).flatten(-2)
    q, k = heads(made.q(x)), heads(x)
    # All variances are constant: eta^2 + gamma^2, as far as the parameters were moved.
    positive = lambda raw, start: 1e-6 + (start - 1e-6) * torch.log1p(raw.exp()) / math.log(2)  # noqa: E731
    V = positive(made.noise[0], 0.5).sum(0)
    nu = positive(made.freedom, 2 * math.sqrt(8) / 4)
    s = 2 * (made.sharpness**2 / (nu * 4 * V))[:, None, None] * torch.einsum("bhnd,bhmd->bhnm", q.conj(), k).real
    want = (s.softmax(-1) @ x.unflatten(-1, (4, 8)).transpose(1, 2)).transpose(1, 2).flatten(2)
    assert torch.allclose(made(x), want, atol=1e-10)


def test_rotary_attention_is_a_special_case() -> None:
    settings = {**POINT, "residual": "product", "frequencies": "rope", "turn_values": False}
    made, x = layer(stirred=False, **settings), PLAIN.tokens()
    angle = torch.arange(12)[:, None] * torch.tensor([10_000.0 ** (-f / 4) for f in range(4)], dtype=torch.float64)
    spin = torch.polar(torch.ones_like(angle), angle)
    q, k = (torch.view_as_real(heads(part(x)) * spin).flatten(-2) for part in (made.q, made.k))
    s = (q @ k.transpose(-1, -2) / math.sqrt(8)).masked_fill(torch.ones(12, 12).triu(1).bool(), -torch.inf)
    v = made.v(x).unflatten(-1, (4, -1)).transpose(1, 2)
    want = made.out((s.softmax(-1) @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(made(x, causal=True), want, atol=1e-10)


def test_the_robust_form_nears_the_other_as_the_freedom_grows() -> None:
    x, off = PLAIN.tokens(), []
    for raw in (10.0, 100.0, 1000.0):
        outs = []
        for robust in (True, False):
            made = layer(robust=robust)
            with torch.no_grad():
                made.freedom.fill_(raw)
            outs.append(made(x, causal=True))
        off.append(float((outs[0] - outs[1]).detach().abs().max()))
    # log(1 + r) is r less r^2 / 2.
    assert off[1] / off[2] == pytest.approx(100, rel=0.2)
    assert off[0] > off[1] > off[2] > 0


def test_without_gain_a_token_keeps_its_own_value() -> None:
    made, x = layer(), PLAIN.tokens()
    with torch.no_grad():
        made.gain.fill_(-800.0)
    assert torch.allclose(made(x), made.out(made.v(x)), atol=1e-12)


def test_fast_decay_leaves_a_token_alone() -> None:
    # A system that forgets within a step, read noisily from afar and exactly from near.
    made, x = layer(steps=1, gain=False), PLAIN.tokens()
    with torch.no_grad():
        made.decay.fill_(-50.0)  # alpha is 5, a step
        made.noise[0, 0].fill_(200.0)
        made.noise[0, 1:].fill_(-50.0)
        made.sharpness.fill_(2.0)
        made.freedom.fill_(1e6)
    assert torch.allclose(made(x, causal=True), made.out(made.v(x)), atol=1e-3)


def test_variances_are_positive_and_monotone_in_distance() -> None:
    made = layer()
    assert made.decay is not None
    gaps = torch.arange(40)[None, None, None]
    tables = made._tables(gaps, made.noise)
    assert tables.variance.min() > 0
    assert torch.allclose(-tables.prior, tables.variance.log())
    assert (tables.decay.diff(dim=-1) < 0).all()
    # sigma^2 / (2 alpha) is far above eta^2 at these parameters, so that farther is less certain; and below it, more.
    assert (tables.variance.diff(dim=-1) > 0).all()
    with torch.no_grad():
        made.noise[0, 0].fill_(-50.0)
    assert (made._tables(gaps, made.noise).variance.diff(dim=-1) < 0).all()


def test_the_variance_is_that_of_a_simulated_system() -> None:
    # dz = -alpha z dt + dW from a start known to eta^2, summed in small steps.
    made = layer()
    alpha = made._alpha(made.decay)
    sigma2, eta2, gamma2 = (
        1e-6 + (start - 1e-6) * torch.log1p(raw.exp()) / math.log(2)
        for raw, start in zip(made.noise[0], (0.1, 0.5, 0.5), strict=True)
    )
    V, n = eta2.clone(), 20_000
    for _ in range(n):
        V = V + (sigma2 - 2 * alpha * V) * (30 / n)
    found = made._tables(torch.tensor([[[[30]]]]), made.noise).variance[0, :, 0, 0]
    assert torch.allclose(found, V + gamma2, rtol=1e-4)


def test_no_decay_is_the_limit_of_little_decay() -> None:
    still, moving = layer(decay=False), layer()
    with torch.no_grad():
        moving.decay.fill_(800.0)  # alpha is 1e-5, its least
        for name, parameter in still.named_parameters():
            parameter.copy_(moving.get_parameter(name))
    x = PLAIN.tokens()
    assert torch.allclose(still(x, causal=True), moving(x, causal=True), atol=1e-3)
    moving._alpha = lambda raw: 0 * raw + 1e-12  # type: ignore[method-assign]
    assert torch.allclose(still(x, causal=True), moving(x, causal=True), atol=1e-9)


@pytest.mark.parametrize("settings", [{}, {"predict": True}, {"frequencies": "rope"}])
def test_shifting_all_times_changes_nothing(settings: dict[str, object]) -> None:
    made, x, at = layer(**settings), PLAIN.tokens(), torch.arange(12)
    out = made(x, causal=True)
    assert torch.allclose(made(x, causal=True, positions=at), out, atol=1e-10)
    assert torch.allclose(made(x, causal=True, positions=at + 37), out, atol=1e-9)
    assert not torch.allclose(made(x, causal=True, positions=2 * at), out, atol=1e-3)


def test_prediction_is_the_estimate_one_step_on() -> None:
    plain, ahead, x = layer(), layer(predict=True), PLAIN.tokens()
    for made in (plain, ahead):
        identity(made, "out")
    now, then = heads(plain(x, causal=True)), heads(ahead(x, causal=True))
    turn = plain.frequency * 10 * math.pi / plain.steps
    step = torch.exp(-plain._alpha(plain.decay)[:, None] + 1j * torch.cat([turn, -turn], -1))
    assert torch.allclose(then, step[:, None] * now, atol=1e-10)


def test_an_outlier_counts_less_in_the_robust_form() -> None:
    # Equal tokens but one, far off: how much the last token's output has of it.
    x = torch.ones(1, 8, 32, dtype=torch.float64)
    x[:, 3] = -1.0
    x[:, 5] = -9.0
    share = {}
    for robust in (True, False):
        made = layer(stirred=False, robust=robust, gain=False, frequencies="none")
        identity(made, "q", "k", "v", "out")
        weights = captured(made, x)[0, :, -1]
        share[robust] = weights
        assert (weights[:, 5] < weights[:, 3]).all()
        assert torch.allclose(weights.sum(-1), torch.ones(4, dtype=torch.float64))
    # By a Gaussian all but the outliers vanish exponentially; the logarithm makes a power of the distance of it.
    ratio = {robust: (w[:, 5] / w[:, 3]).log() for robust, w in share.items()}
    assert (ratio[True] > ratio[False] + 10).all()
    assert (share[True][:, 5] < share[True][:, 7] / 10).all()


def captured(made: AdaptiveFilterAttention, x: Tensor) -> Tensor:
    """The weights [B, H, N, N] before decay, of a causal call."""
    return made.weights(Call(tokens=x, memory=x, causal=True))


def test_weights_are_what_the_output_is_made_with() -> None:
    made, x = layer(gain=False, turn_values=False), PLAIN.tokens()
    identity(made, "out")
    gaps = (torch.arange(12)[:, None] - torch.arange(12)).abs()
    fades = torch.exp(made.eigenvalues.real[:, 0, None, None] * gaps)
    v = made.v(x).unflatten(-1, (4, 8)).transpose(1, 2)
    want = (captured(made, x) * fades) @ v
    assert torch.allclose(made(x, causal=True), want.transpose(1, 2).flatten(2), atol=1e-10)


def test_rows_of_decayed_weights_sum_to_no_more_than_one() -> None:
    made, x = layer(gain=False, frequencies="none"), PLAIN.tokens(batch=1)
    weights = captured(made, x)
    assert torch.allclose(weights.sum(-1), torch.ones(1, 4, 12, dtype=torch.float64))
    assert weights.min() >= 0


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"residual": "product"}, "robust=False"),
        ({"residual": "sum", "robust": False}, "residual must be one of 'distance', 'product'; got 'sum'"),
        ({"frequencies": "fixed"}, "frequencies must be one of 'learned', 'rope', 'none'; got 'fixed'"),
        ({"steps": 0}, "steps must be at least 1; got 0"),
    ],
)
def test_settings_out_of_range_are_refused_in_words(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        AdaptiveFilterAttention(32, 4, **settings)  # type: ignore[arg-type]


def test_heads_of_odd_width_and_times_that_do_not_increase_are_refused_in_words() -> None:
    with pytest.raises(ShapeError, match=r"12 / 4 = 3 is odd. Type dim=24"):
        AdaptiveFilterAttention(12, 4)
    made, x = layer(), PLAIN.tokens(length=4)
    with pytest.raises(ValueError, match="position 5 follows 7. Sort the tokens"):
        made(x, causal=True, positions=torch.tensor([0, 7, 5, 8]))
    with pytest.raises(ValueError, match="position 3 follows 3"):
        made(x, causal=True, positions=torch.tensor([0, 3, 3, 8]))
    assert made(x, positions=torch.tensor([0, 7, 5, 8])).isfinite().all()


def test_a_head_of_one_complex_feature_has_nothing_to_pair() -> None:
    made = AdaptiveFilterAttention(8, 4)
    assert made.frequency.numel() == 0
    assert made(torch.randn(1, 3, 8), causal=True).isfinite().all()
    odd = AdaptiveFilterAttention(24, 4)
    omega = odd._omega(torch.zeros(1))
    assert omega is not None
    assert torch.equal(omega[:, 0], -omega[:, 1])
    assert not omega[:, 2].any()
