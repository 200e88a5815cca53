"""The dynamical systems of attention, state space models and gated recurrences."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from regard.errors import ShapeError
from regard.layers import Attention, create
from regard.mechanisms import Call, Mixer
from regard.mechanisms.linear import LightningAttention2, NormalisedAttention
from regard.mechanisms.linear.systems import (
    System,
    convertible,
    gated_recurrence,
    linear_attention,
    selective_state_space,
    softmax_attention,
    taylor_error,
    to_dsf,
)
from regard.ops import recur


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def heads(N: int = 7, D: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return randn(2, 2, N, D), randn(2, 2, N, D, seed=1), randn(2, 2, N, 4, seed=2)


def close(got: torch.Tensor, want: torch.Tensor, atol: float = 1e-10) -> None:
    torch.testing.assert_close(got, want, rtol=0, atol=atol * max(1.0, float(want.detach().abs().max())))


def agrees(system: System) -> None:
    """The kernel is lower triangular and gives what the scan gives."""
    kernel = system.kernel()
    assert (kernel.triu(1) == 0).all()
    close(kernel @ system.inputs, system.run())


def test_linear_attention_without_a_normaliser_is_a_running_sum():
    q, k, v = heads()
    system = linear_attention(q, k, v)
    close(
        system.run(),
        torch.stack(
            [(q[:, :, t, None] * k[:, :, : t + 1]).sum(-1)[:, :, None] @ v[:, :, : t + 1] for t in range(7)], 2
        )[:, :, :, 0],
    )
    agrees(system)
    assert (system.form, system.size) == ("identity", 12)
    assert system.radius.tolist() == [1, 1]


def test_a_normaliser_stands_in_what_stays_and_in_what_is_written():
    q, k, v = heads()
    eta = randn(2, 2, 7, seed=3).exp()
    system = linear_attention(q, k, v, eta=eta)
    close(system.run(), linear_attention(q, k, v).run() / eta[..., None])
    agrees(system)
    assert system.form == "scalar"
    for wrong in (eta - eta.max(), eta * 0):
        with pytest.raises(ValueError, match="eta must be above 0"):
            linear_attention(q, k, v, eta=wrong)


def test_weights_that_are_divided_by_their_sum_sum_to_one():
    q, k, v = (x.abs() for x in heads())
    system = linear_attention(q, k, v, divide=True)
    close(system.kernel().sum(-1), torch.ones(2, 2, 7, dtype=torch.float64))
    agrees(system)


def test_s6_is_its_own_recurrence_and_forgets():
    u, delta, A, B, C, D = (
        randn(2, 6, 3),
        randn(2, 6, 3, seed=1).exp(),
        randn(3, 4, seed=2).exp(),
        randn(2, 6, 4, seed=3),
        randn(2, 6, 4, seed=4),
        randn(3, seed=5),
    )
    system = selective_state_space(u, delta, A, B, C, D)
    h, rows = torch.zeros(2, 3, 4, dtype=torch.float64), []
    for t in range(6):
        h = torch.exp(-delta[:, t, :, None] * A) * h + delta[:, t, :, None] * B[:, t, None] * u[:, t, :, None]
        rows.append((h * C[:, t, None]).sum(-1) + D * u[:, t])
    close(system.run()[..., 0], torch.stack(rows, 2))
    agrees(system)
    assert (system.radius < 1).all()
    assert system.form == "diagonal"
    with pytest.raises(ValueError, match="delta and A must be at least 0"):
        selective_state_space(u, -delta, A, B, C)


def test_a_gated_recurrence_has_one_number_for_each_channel():
    u, f, i, o = (randn(2, 6, 3, seed=s) for s in range(4))
    f = f.sigmoid()
    system = gated_recurrence(f, i, u, o)
    h, rows = torch.zeros(2, 3, dtype=torch.float64), []
    for t in range(6):
        h = f[:, t] * h + i[:, t] * u[:, t]
        rows.append(o[:, t] * h)
    close(system.run()[..., 0], torch.stack(rows, 2))
    agrees(system)
    assert system.size == 1


def test_s6_with_one_decay_a_head_is_linear_attention_with_a_normaliser():
    u, B, C = randn(1, 6, 1), randn(1, 6, 4, seed=1), randn(1, 6, 4, seed=2)
    delta, A = randn(1, 6, 1, seed=3).exp(), torch.full((1, 4), 0.3, dtype=torch.float64)
    eta = (delta[:, :, 0] * 0.3).cumsum(1).exp()[:, None]
    keys = (delta * B)[:, None] * eta[..., None]
    as_attention = linear_attention(C[:, None], keys, u[:, None], eta=eta)
    s6 = selective_state_space(u, delta, A, B, C)
    close(as_attention.run(), s6.run())
    close(as_attention.stays[:, :, 1:], s6.stays[:, :, 1:].expand_as(as_attention.stays[:, :, 1:]))


def test_parts_of_two_systems_go_together():
    q, k, v = heads()
    decay = randn(2, 2, 7, 3, seed=5).sigmoid()
    mixed = replace(linear_attention(q, k, v), stays=decay)
    agrees(mixed)
    memoryless = replace(mixed, stays=torch.zeros_like(decay))
    close(memoryless.run(), (q * k).sum(-1, keepdim=True) * v)


@pytest.mark.parametrize("order", [0, 1, 3])
def test_the_series_of_softmax_is_within_its_bound(order):
    q, k, v = heads(D=2)
    q = q / 4  # small scores, for which twelve terms are many
    close(softmax_attention(q, k, v, 12).run(), plain_softmax(q, k, v), 1e-5)
    wide = softmax_attention(q, k, v, order)
    assert wide.writes.shape[-1] == sum(2**p for p in range(order + 1))
    s = q @ k.transpose(-1, -2) / math.sqrt(2)
    series = sum(s**p / math.factorial(p) for p in range(order + 1))
    assert ((s.exp() - series).abs() <= taylor_error(q, k, order) + 1e-12).all()
    weights = series.tril()
    close(wide.run(), (weights / weights.sum(-1, keepdim=True)) @ v)


def plain_softmax(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    s = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
    return s.softmax(-1) @ v


RECURRENT = ["dsf", "dsf:normaliser=softplus", "lightning_attention2", "lightning_attention2:layers=3"]


@pytest.mark.parametrize("name", RECURRENT)
def test_a_mixer_is_its_system(name):
    layer = Attention(16, 4, mixer=name).double()
    q, k, v = (randn(2, 4, 9, 4, seed=s) for s in range(3))
    tokens = q.transpose(1, 2).flatten(2)
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_(torch.randn_like(p))
    system = to_dsf(layer.mixer, q, k, v)
    close(system.run(), layer.mixer(q, k, v, Call(tokens=tokens, memory=tokens, causal=True)), 1e-8)
    agrees(system)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("latte", {}),
        ("lightnet", {}),
        ("lightnet", {"lrpe": "rotary"}),
        ("lightning_attention", {"lrpe": True}),
        ("md_tpe", {}),
    ],
)
def test_the_recurrence_in_a_layer_is_a_system(name, settings):
    torch.manual_seed(0)
    layer, x = create(name, dim=16, heads=2, **settings).double(), randn(2, 9, 16)
    system = to_dsf(layer, x)
    read = system.run().transpose(1, 2).flatten(2)
    if name == "latte":
        want = layer(x, causal=True)
        close(layer.out(read), want)
        assert (system.kernel() >= 0).all()
        close(system.kernel().sum(-1), torch.ones(2, 2, 9, dtype=torch.float64))
    else:
        normed = read / (read.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        gate = 1 if name == "md_tpe" else torch.sigmoid(layer.gate_out(layer.gate_in(x)))
        close(layer.out(normed * gate), layer(x, causal=True))
    agrees(system)
    assert (system.radius <= 1).all()


def test_every_mechanism_on_the_recurrence_is_converted():
    names = convertible()
    assert {"dsf", "latte", "lightnet", "lightning_attention", "lightning_attention2", "md_tpe", "softmax"} <= set(
        names
    )
    assert not {"rat", "gam", "sliding_window"} & set(names)
    for name in names:
        layer = create(name, dim=16, heads=2).double()
        layer = layer.mixer if isinstance(layer, Attention) else layer
        given = (randn(1, 6, 16),) if hasattr(layer, "dim") else tuple(randn(1, 2, 6, 8, seed=s) for s in range(3))
        agrees(to_dsf(layer, *given, order=2))


def test_softmax_attention_in_a_layer_is_cut_off():
    torch.manual_seed(0)
    layer, x = Attention(8, 4, position="rope").double(), randn(1, 6, 8) * 0.5
    got = layer.merge.out(to_dsf(layer, x, order=10).run().transpose(1, 2).flatten(2))
    close(got, layer(x, causal=True), 1e-6)


def test_what_can_not_be_converted_is_named():
    x = torch.randn(1, 6, 16)
    with pytest.raises(ValueError, match="Softmax attention's state has no bound.*Type order=4"):
        to_dsf(Attention(16, 2), x)
    with pytest.raises(ValueError, match="order must be at least 0; got -1"):
        to_dsf(Attention(16, 2), x, order=-1)
    with pytest.raises(ValueError, match="GatedAssociativeMemory has no state of fixed size. Those that have: .*latte"):
        to_dsf(create("gam", dim=16, heads=2), x)
    with pytest.raises(ValueError, match="SlidingWindow has no state of fixed size"):
        to_dsf(create("sliding_window", dim=16, heads=2), x)
    with pytest.raises(ShapeError, match="takes a mixer with q, k, v"):
        to_dsf(create("latte", dim=16, heads=2), x, x, x)


@pytest.mark.parametrize("normaliser", ["exp", "softplus", "sigmoid"])
def test_the_normaliser_is_never_less_than_a_millionth(normaliser):
    mixer = NormalisedAttention(4, 2, normaliser=normaliser)
    with torch.no_grad():
        mixer.eta.bias.fill_(-1e3)
    share = mixer.share(torch.randn(1, 3, 4))
    torch.testing.assert_close(share, torch.full((1, 2, 3, 1), 1e6), rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"normaliser": "relu"}, "normaliser must be one of 'exp', 'softplus', 'sigmoid'; got 'relu'"),
        ({"features": "relu"}, "features must be one of 'elu', 'identity'; got 'relu'"),
    ],
)
def test_bad_settings_are_named(settings, text):
    with pytest.raises(ValueError, match=text):
        NormalisedAttention(16, 2, **settings)


class Written(Mixer):
    """A mixer of the test's own on the recurrence, with whatever settings."""

    spec = replace(LightningAttention2.spec, id="written")

    def __init__(self, spans: int = 1, **settings: Any) -> None:
        super().__init__()
        self.spans, self.settings = spans, settings

    def mix(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, call: Call) -> torch.Tensor:
        state, outs = None, []
        for part in torch.arange(q.shape[2]).chunk(self.spans):
            cut = {
                name: x[:, :, part] if name == "beta" or (name == "decay" and x.dim() > 2) else x
                for name, x in self.settings.items()
            }
            out, state = recur(q[:, :, part], k[:, :, part], v[:, :, part], state=state, keep=True, **cut)
            outs.append(out)
        return torch.cat(outs, 2)


@pytest.mark.parametrize("spans", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"write": "delta", "beta": randn(2, 2, 7, seed=7).sigmoid(), "decay": -randn(2, 2, 7, seed=8).exp()},
        {"beta": randn(2, 2, 7, seed=7), "decay": -randn(2, 3, seed=8).exp(), "scale": 0.3},
        {"normalise": "sum", "decay": -randn(2, 2, 7, 3, seed=8).exp()},
        {"normalise": "softmax", "decay": -randn(2, seed=8).exp()},
    ],
    ids=["delta", "amounts", "sum", "softmax"],
)
def test_every_kind_of_recurrence_is_a_system(settings, spans):
    q, k, v = heads()
    k = k / k.norm(dim=-1, keepdim=True) if "write" in settings else k
    mixer = Written(spans, **settings)
    tokens = q.transpose(1, 2).flatten(2)
    system = to_dsf(mixer, q, k, v)
    close(system.run(), mixer(q, k, v, Call(tokens=tokens, memory=tokens, causal=True)), 1e-8)
    agrees(system)
    assert system.form == ("matrix" if "write" in settings else system.form)
    assert "write" not in settings or (system.radius <= 1 + 1e-9).all()


def test_keys_of_a_group_are_those_of_its_heads():
    q, k, v = randn(1, 4, 5, 3), randn(1, 2, 5, 3, seed=1), randn(1, 2, 5, 3, seed=2)
    mixer = Written(decay=torch.tensor([-0.1, -1.0]))
    tokens = q.transpose(1, 2).flatten(2)
    close(to_dsf(mixer, q, k, v).run(), mixer(q, k, v, Call(tokens=tokens, memory=tokens, causal=True)))


class Twice(Written):
    """Two recurrences, one after the other."""

    def mix(self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, call: Call) -> torch.Tensor:
        return recur(q, k, recur(q, k, v))


def test_two_recurrences_are_not_one_system():
    with pytest.raises(ValueError, match="Twice holds 2 recurrences"):
        to_dsf(Twice(), *heads())
