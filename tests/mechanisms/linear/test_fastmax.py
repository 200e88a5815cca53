"""Fastmax: its weights, normalisations, coefficients, spans and the greatest length."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from regard.errors import Unsupported
from regard.layers import create
from regard.mechanisms import Call
from regard.mechanisms.linear import Fastmax


def _heads(N: int = 20, D: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, 3, N, D, generator=source, dtype=torch.float64) for _ in range(3))  # type: ignore[return-value]


def _mixed(mixer: Fastmax, q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    zeros = q.new_zeros(2, q.shape[2], 1)
    return mixer(q, k, v, Call(tokens=zeros, memory=zeros, causal=causal))


@pytest.mark.parametrize("settings", [{}, {"p": 1}, {"normalise": "l2"}, {"normalise": "none", "chunk": 3}])
@pytest.mark.parametrize("causal", [False, True])
def test_weights_are_shares_and_give_the_output(settings: dict[str, Any], causal: bool) -> None:
    mixer, (q, k, v) = Fastmax(6, **settings), _heads()
    weights = mixer.weights(q, k, causal=causal)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 3, 20, dtype=torch.float64))
    torch.testing.assert_close(weights @ v, _mixed(mixer, q, k, v, causal=causal))


@pytest.mark.parametrize("causal", [False, True])
def test_spans_do_not_change_the_output_or_its_gradient(causal: bool) -> None:
    made = []
    for chunk in (256, 7):
        q, k, v = (x.requires_grad_() for x in _heads())
        out = _mixed(Fastmax(6, chunk=chunk), q, k, v, causal=causal)
        made.append((out, *torch.autograd.grad(out.square().sum(), (q, k, v))))
    for one, other in zip(*made, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("causal", [False, True])
def test_spans_leave_padding_out_and_documents_apart(causal: bool) -> None:
    made = []
    x = torch.randn(2, 12, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    real = (torch.arange(12) > 1) & (torch.arange(12) < torch.tensor([[9], [12]]))
    documents = torch.tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 2, 2])
    for chunk in (256, 4):
        torch.manual_seed(0)
        layer = create("fastmax", dim=16, heads=2, chunk=chunk).double()
        made.append(layer(x, causal=causal, padding=real, documents=documents)[real])
    torch.testing.assert_close(*made)
    first = layer(x[1:, 2:5], causal=causal)  # a whole document
    torch.testing.assert_close(made[1][-10:-7], first[0])


def test_steps_go_on_through_spans() -> None:
    torch.manual_seed(0)
    layer = create("fastmax", dim=16, heads=2, chunk=4).double()
    x = torch.randn(2, 12, 16, dtype=torch.float64)
    first, state = layer.prefill(x[:, :7])
    rest, _ = layer.step(state, x[:, 7:])
    torch.testing.assert_close(torch.cat([first, rest], 1), layer(x, causal=True))


def test_a_high_temperature_weighs_all_alike() -> None:
    q, k, v = _heads()
    got = _mixed(Fastmax(6, temperature=1e9), q, k, v, causal=True)
    torch.testing.assert_close(got, v.cumsum(2) / torch.arange(1, 21)[:, None])


@pytest.mark.parametrize("p", [1, 2])
def test_small_products_agree_with_softmax_to_the_next_order(p: int) -> None:
    q, k, v = _heads()
    off = []
    for temperature in (100.0, 200.0):
        got = _mixed(Fastmax(6, p=p, normalise="l2", temperature=temperature), q, k, v)
        unit = [torch.nn.functional.normalize(x, dim=-1) for x in (q, k)]
        want = (unit[0] @ unit[1].transpose(-1, -2) / temperature).softmax(-1) @ v
        off.append(float((got - want).abs().max()))
    assert off[0] / off[1] == pytest.approx(2 ** (p + 1), rel=0.1)


def test_weights_of_unit_vectors_differ_by_five_at_most() -> None:
    q = torch.eye(4, dtype=torch.float64)[None, None]
    weights = Fastmax(4, normalise="l2").weights(q, torch.cat([q, -q], 2))
    assert float((weights.amax(-1) / weights.amin(-1)).max()) == pytest.approx(5.0)


def test_the_greatest_length_is_over_real_tokens_and_needs_no_order() -> None:
    torch.manual_seed(0)
    layer = create("fastmax", dim=16, heads=2, normalise="max").double()
    x = torch.randn(1, 6, 16, dtype=torch.float64)
    junk = torch.cat([x, 100 * torch.randn(1, 2, 16, dtype=torch.float64)], 1)
    torch.testing.assert_close(layer(junk, padding=torch.arange(8)[None] < 6)[:, :6], layer(x))
    mixer, (q, k, v) = Fastmax(6, normalise="max"), _heads()
    products = mixer._normed(q, None) @ mixer._normed(k, None).transpose(-1, -2)
    assert 0.1 < float(products.abs().max()) <= 1.0
    torch.testing.assert_close(_mixed(mixer, 9 * q + 3, 7 * k, v), _mixed(mixer, q, k, v))
    for asked in ({"causal": True}, {"documents": torch.tensor([0, 0, 1, 1, 1, 1])}):
        with pytest.raises(Unsupported, match="normalise='l2' or 'standard'"):
            layer(x, **asked)
    with pytest.raises(Unsupported, match="looks at all tokens at once"):
        layer.step(layer.init_state(1), x[:, :1])


def test_rows_of_constants_are_finite() -> None:
    q, k, v = _heads(D=6)
    for normalise in ("standard", "l2"):
        mixer = Fastmax(6, normalise=normalise)
        got = _mixed(mixer, torch.zeros_like(q), torch.zeros_like(k), v)
        torch.testing.assert_close(got, v.mean(2, keepdim=True).expand_as(v))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"p": 3}, "Fastmax.p must be 1 or 2; got 3"),
        ({"normalise": "sum"}, "must be one of 'standard', 'l2', 'max', 'none'; got 'sum'"),
        ({"temperature": 0.0}, "temperature must be above 0; got 0.0"),
        ({"chunk": 0}, "chunk must be at least 1; got 0"),
        ({"coeffs": (1.0, 1.0)}, "coeffs must be 3 numbers at p=2"),
        ({"p": 1, "normalise": "none"}, "makes weights negative"),
        ({"p": 1, "normalise": "l2", "temperature": 0.5}, "for products up to 2"),
        ({"coeffs": (0.4, 1.0, 0.5)}, "makes weights negative"),
        ({"coeffs": (0.0, 0.0, 1.0)}, "or all of them 0"),
        ({"head_dim": 512}, "makes 131841 features of head_dim=512. Type p=1"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Fastmax(**{"head_dim": 16, **settings})


def test_weights_of_many_keys_are_asked_for_by_name() -> None:
    with pytest.raises(ValueError, match="Type most=20"):
        Fastmax(6).weights(*_heads()[:2], most=10)
