"""Attention's parts taken away: what the spec can't say."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import regard
from regard.errors import ShapeError
from regard.mechanisms import Layer
from regard.mechanisms.dense import Deconstructed

DIM, HEADS = 32, 4
VARIANTS = ("standard", "mlp", "taylor", "nonapprox", "rnd_fixed", "static_emb")


def tokens(length: int = 10, seed: int = 0) -> Tensor:
    return torch.randn(2, length, DIM, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(variant: str, **settings: object) -> Layer:
    torch.manual_seed(1)
    return regard.create("deconstructed", dim=DIM, heads=HEADS, variant=variant, **settings).double()


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_have_equal_parameters(variant: str) -> None:
    count = sum(p.numel() for p in made(variant).parameters())
    assert abs(count / (4 * DIM**2) - 1) < 0.01


def test_the_mlp_maps_each_token_alone_and_decodes() -> None:
    layer, x = made("mlp"), tokens()
    gate, up, down = (layer.get_submodule(name).weight for name in ("gate", "up", "down"))
    hidden = x @ gate.T
    want = (hidden * torch.sigmoid(hidden) * (x @ up.T)) @ down.T
    assert torch.allclose(layer(x, causal=True), want, atol=1e-12)
    state = layer.init_state(2)
    for n in range(3):
        out, state = layer.step(state, x[:, n : n + 1])
        assert torch.allclose(out, want[:, n : n + 1], atol=1e-12)


@pytest.mark.parametrize("variant", ["rnd_fixed", "text_fixed"])
def test_fixed_maps_are_the_same_for_any_input(variant: str) -> None:
    extra = {"stream": tokens()[0]} if variant == "text_fixed" else {}
    layer = made(variant, **extra)
    # The map is fixed, so the layer is linear in its input.
    a, b = tokens(seed=2), tokens(seed=3)
    both = layer(a + 2 * b, causal=True)
    assert torch.allclose(both, layer(a, causal=True) + 2 * layer(b, causal=True), atol=1e-12)


def test_a_score_of_one_key_weighs_the_same_against_another_for_every_query() -> None:
    layer, x = made("nonapprox"), tokens()
    with torch.no_grad():
        layer.get_submodule("v").weight.copy_(torch.eye(DIM))
        layer.get_submodule("out").weight.copy_(torch.eye(DIM))
    q, k = (x[0] @ layer.get_submodule(name).weight.T for name in ("q", "k"))
    for head in range(HEADS):
        own = slice(8 * head, 8 * head + 8)
        s = (q[:, own] * torch.sigmoid(q[:, own]) * k[:, own]).sum(-1) / 8**0.5
        for t in range(10):
            p = torch.softmax(s[: t + 1], 0)
            assert torch.allclose(layer(x, causal=True)[0, t, own], p @ x[0, : t + 1, own], atol=1e-12)


def test_taylor_meets_softmax_to_third_order() -> None:
    softmax, taylor = made("standard", rope=False), made("taylor", rope=False)
    taylor.load_state_dict(softmax.state_dict())
    gaps = []
    for small in (0.2, 0.1):
        x = tokens() * 1.0
        for layer in (softmax, taylor):
            with torch.no_grad():
                layer.get_submodule("q").weight.mul_(small if small == 0.2 else 0.5)
        gaps.append((softmax(x, causal=True) - taylor(x, causal=True)).abs().max().item())
    assert 6 < gaps[0] / gaps[1] < 10  # half the scores, an eighth of the difference


def test_wrong_settings_say_what_to_type() -> None:
    with pytest.raises(ValueError, match="Deconstructed.variant must be one of 'standard', 'mlp', .*; got 'sofmax'"):
        Deconstructed(DIM, HEADS, variant="sofmax")
    with pytest.raises(ValueError, match="variant='text_fixed' and stream= go together"):
        Deconstructed(DIM, HEADS, variant="text_fixed")
    with pytest.raises(ShapeError, match=r"stream must be floats \[length, 32\]"):
        Deconstructed(DIM, HEADS, variant="text_fixed", stream=torch.zeros(4, 3))
    with pytest.raises(ValueError, match="embeddings"):
        made("static_emb")(tokens(), causal=True)
    with pytest.raises(ValueError, match="4"):
        made("rnd_fixed", length=4)(tokens(5), causal=True)
