"""RCMHA: its convolution beside padding, and both-sided kernels."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from regard.errors import ShapeError, Unsupported
from regard.layers import create
from regard.mechanisms import Layer
from regard.mechanisms.positions import RCMHA
from regard.testing import Subject, checks, oracles, run
from regard.testing.checks import Check
from regard.testing.subject import stir

CLAIMS = replace(RCMHA.spec, causal=False, decode=False, limits=())
SAME = Subject("rcmha", CLAIMS, lambda dim, heads, **s: RCMHA(dim, heads, **s), {"same": True})  # type: ignore[arg-type]


# What it refuses is of this setting and not of the class: it has a test of its own below.
KEPT = [check for check in checks(SAME) if check.name != "refuses the unclaimed"]


@pytest.mark.parametrize("check", KEPT, ids=lambda check: check.name)
def test_kernels_of_both_sides_keep_every_claim_but_order(check: Check):
    assert not run(SAME, check).problem


def stirred(**settings: object) -> Layer:
    torch.manual_seed(0)
    return stir(create("rcmha", dim=16, heads=2, **settings).double(), 1)


def count(**settings: object) -> int:
    return sum(p.numel() for p in create("rcmha", dim=16, heads=2, **settings).parameters())


def test_parameters_are_counted():
    assert count(kernel=None, encoding="none") == 4 * 16 * 16
    assert count(kernel=None) == 5 * 16 * 16 + 2 * 16
    assert count(kernel=5) - count(kernel=None) == 3 * 16 * 5
    assert count(kernel=5, bias=True) - count(kernel=5) == 3 * 16
    assert count(kernel=5, conv_before_proj=True) - count(kernel=None) == 16 * 5
    assert count(kernel=None, encoding="absolute") == 4 * 16 * 16


def test_stirred_weights_give_what_the_oracle_gives():
    layer, x = stirred(kernel=4), torch.randn(2, 7, 16, dtype=torch.float64)
    for causal in (True, False):
        assert torch.allclose(layer(x, causal=causal), oracles.find("rcmha")(layer, x, None, causal), atol=1e-10)


def test_identity_kernels_are_no_convolution():
    layer, plain, x = stirred(), stirred(kernel=None), torch.randn(2, 7, 16, dtype=torch.float64)
    plain.load_state_dict({key: value for key, value in layer.state_dict().items() if key != "taps"})
    with torch.no_grad():
        layer.get_parameter("taps").copy_(torch.tensor([0.0, 0.0, 1.0]))
    assert torch.allclose(layer(x, causal=True), plain(x, causal=True))
    same = stirred(same=True)
    same.load_state_dict(layer.state_dict())
    assert not torch.allclose(same(x), plain(x))
    with torch.no_grad():
        same.get_parameter("taps").copy_(torch.tensor([0.0, 1.0, 0.0]))
    assert torch.allclose(same(x), plain(x))


@pytest.mark.parametrize("same", [False, True])
def test_the_convolution_starts_almost_as_if_it_were_not_there(same: bool):
    torch.manual_seed(0)
    layer, without = create("rcmha", dim=16, heads=2, same=same), create("rcmha", dim=16, heads=2, kernel=None)
    without.load_state_dict({name: layer.state_dict()[name] for name in without.state_dict()})
    x = torch.randn(2, 9, 16)
    want = without(x)
    assert float((layer(x) - want).norm() / want.norm()) < 0.2


def test_a_kernel_of_both_sides_sees_one_token_ahead():
    layer, x = stirred(same=True, encoding="none"), torch.randn(1, 6, 16, dtype=torch.float64)
    with torch.no_grad():
        layer.get_parameter("taps").copy_(torch.tensor([0.0, 0.0, 1.0]))
    moved = torch.cat([x[:, 1:], torch.zeros_like(x[:, :1])], 1)  # each token's queries, keys and values one earlier
    plain = stirred(kernel=None, encoding="none")
    plain.load_state_dict({key: value for key, value in layer.state_dict().items() if key != "taps"})
    assert torch.allclose(layer(x), plain(moved))


def test_scores_know_the_distance_alone():
    layer, x = stirred(), torch.randn(1, 9, 16, dtype=torch.float64)
    at = torch.arange(9)
    out = layer(x, causal=True, positions=at)
    assert torch.allclose(out, layer(x, causal=True, positions=at + 700), atol=1e-10)
    assert not torch.allclose(out, layer(x, causal=True, positions=at * 3), atol=1e-4)


def test_padding_between_tokens_is_not_there_for_the_convolution():
    layer, x = stirred(kernel=3), torch.randn(1, 8, 16, dtype=torch.float64)
    holes = torch.tensor([[True, True, False, True, False, False, True, True]])
    alone = layer(x[holes][None], causal=True)
    assert torch.allclose(layer(x, causal=True, padding=holes)[holes], alone[0])
    # A prompt padded on the right goes on where its real tokens end.
    prompt = torch.cat([x[:, :4], torch.full((1, 3, 16), 9.0, dtype=torch.float64)], 1)
    _, state = layer.prefill(prompt, padding=torch.arange(7)[None] < 4)
    out, _ = layer.step(state, x[:, 4:])
    assert torch.allclose(out, layer(x, causal=True)[:, 4:])


def test_a_convolution_of_inputs_is_one_and_comes_before_the_maps():
    layer, x = stirred(conv_before_proj=True, kernel=2), torch.randn(1, 6, 16, dtype=torch.float64)
    plain = stirred(kernel=None)
    plain.load_state_dict({key: value for key, value in layer.state_dict().items() if key != "taps"})
    taps = layer.get_parameter("taps")
    before = torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)
    assert torch.allclose(layer(x, causal=True), plain(before * taps[:, 0] + x * taps[:, 1], causal=True))


SEGMENTED = [{}, {"conv_before_proj": True}, {"kernel": None}, {"encoding": "absolute"}]


@pytest.mark.parametrize("settings", SEGMENTED, ids=str)
def test_segments_with_a_long_memory_are_the_whole_without_its_gradient(settings):
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    layer, whole = stirred(memory=9, **settings), stirred(**settings)
    state, outs = layer.init_state(2), []
    first, second = (part.clone().requires_grad_() for part in (x[:, :5], x[:, 5:]))
    for segment in (first, second):
        out, state = layer.step(state, segment)
        outs.append(out)
    assert torch.allclose(torch.cat(outs, 1), whole(x, causal=True))
    to_first, to_second = torch.autograd.grad(outs[1].sum(), (first, second), allow_unused=True, retain_graph=True)
    assert to_first is None
    assert to_second.abs().min() > 0
    # The maps learn of the memory all the same, as in Transformer-XL: keys of both segments come from them.
    (known,) = torch.autograd.grad(outs[1].square().sum(), layer.get_parameter("k.weight"))
    (want,) = torch.autograd.grad(whole(x, causal=True)[:, 5:].square().sum(), whole.get_parameter("k.weight"))
    assert torch.allclose(known, want)


def test_a_memory_is_as_long_as_it_is_said_to_be():
    layer, x = stirred(memory=3, kernel=None), torch.randn(2, 10, 16, dtype=torch.float64)
    state = layer.init_state(2)
    for start in (0, 4, 8):
        out, state = layer.step(state, x[:, start : start + 4])
        seen = x[:, max(0, start - 3) : start + 4]
        n = min(4, 10 - start)
        assert torch.allclose(out, layer(seen, causal=True)[:, -n:])


def test_a_memory_of_another_width_is_refused():
    layer, other = create("rcmha", dim=8, heads=2, memory=4), create("rcmha", dim=16, heads=2, memory=4)
    _, state = other.prefill(torch.randn(1, 3, 16))
    with pytest.raises(ShapeError, match="do not continue what is held"):
        layer.step(state, torch.randn(1, 2, 8))
    with pytest.raises(ShapeError, match=r"takes tokens \[B, N, 8\]"):
        layer.step(layer.init_state(1), torch.randn(1, 2, 16))


def test_documents_keep_their_convolutions_apart():
    documents = torch.tensor([0, 0, 0, 1, 1, 1, 1, 2])
    for settings in ({"same": True}, {"kernel": 4, "bias": True}, {"conv_before_proj": True, "same": True}):
        layer, x = stirred(**settings), torch.randn(2, 8, 16, dtype=torch.float64)
        out = layer(x, documents=documents)
        parts = [layer(x[:, documents == one]) for one in range(3)]
        assert torch.allclose(out, torch.cat(parts, 1))
        padding = torch.tensor([[True] * 8, [True, True, False, False, True, True, False, False]])
        held = layer(x, documents=documents, padding=padding)[1]
        for one in range(2):
            real = (documents == one) & padding[1]
            assert torch.allclose(held[real], layer(x[1:, real])[0])


def test_a_kernel_of_both_sides_can_neither_be_causal_nor_decode():
    layer = create("rcmha", dim=8, heads=2, same=True)
    with pytest.raises(Unsupported, match="same=True is not causal: it would see later tokens"):
        layer(torch.randn(1, 4, 8), causal=True)
    with pytest.raises(Unsupported, match="can't decode step by step"):
        layer.init_state(1)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match="at least 1, or None for no convolution; got 0"):
        RCMHA(8, 2, kernel=0)
    with pytest.raises(ValueError, match="at least 1 and odd with same=True.*got 4"):
        RCMHA(8, 2, kernel=4, same=True)
    with pytest.raises(ValueError, match="memory must be at least 1, or None to keep every token; got 0"):
        RCMHA(8, 2, memory=0)
    with pytest.raises(ValueError, match="encoding must be one of 'relative', 'absolute', 'none'; got 'rope'"):
        RCMHA(8, 2, encoding="rope")
    with pytest.raises(ShapeError, match="dim must be even; got 9. Type dim=12"):
        RCMHA(9, 3)
