"""GAM: how far it sees, and what its slots may do."""

from __future__ import annotations

import pytest
import torch

from regard.backbones import DecoderLM
from regard.layers import create
from regard.mechanisms.linear import GatedAssociativeMemory


@pytest.mark.parametrize(("layers", "kernel"), [(1, 1), (1, 3), (2, 3), (3, 2)])
def test_a_stack_sees_as_far_as_its_convolutions_reach(layers, kernel):
    torch.manual_seed(0)
    stack = [create("gam", dim=8, heads=2, kernel=kernel, slots=5).double() for _ in range(layers)]
    model = DecoderLM(11, 8, stack).double()
    at, reach = 9, layers * (kernel - 1)
    x = torch.randn(1, 12, 8, dtype=torch.float64, requires_grad=True)
    out = x
    for index, block in enumerate(model.blocks):
        out = block(out, index=index, embeddings=x)
    (slope,) = torch.autograd.grad(out[0, at].square().sum(), x)
    moved = slope[0].abs().sum(-1) > 0
    assert moved.tolist() == [at - reach <= t <= at for t in range(12)]


def test_the_order_of_slots_does_not_matter():
    layer, x = create("gam", dim=8, heads=2, slots=7, values=True).double(), torch.randn(1, 5, 8, dtype=torch.float64)
    before = layer(x, causal=True)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for bank in (layer.memory, layer.memory_values):
            bank.copy_(bank[:, order].clone())
    torch.testing.assert_close(layer(x, causal=True), before, rtol=0, atol=1e-12)


def test_one_slot_is_what_every_token_reads():
    layer, x = create("gam", dim=8, heads=2, slots=1), torch.randn(2, 5, 8)
    torch.testing.assert_close(layer.recalled(x), layer.memory[0, 0].expand(2, 5, 8))


def test_gates_that_are_shut_and_open_leave_the_convolution():
    layer, x = create("gam", dim=8, heads=2, slots=4).double(), torch.randn(2, 6, 8, dtype=torch.float64)
    with torch.no_grad():
        layer.gate.weight.zero_()
        layer.gate.bias[:8] = 60.0
        layer.gate.bias[8:] = -60.0
    want = torch.nn.functional.conv1d(
        torch.nn.functional.pad(x.transpose(1, 2), (2, 0)), layer.taps[:, None], layer.bias, groups=8
    ).transpose(1, 2)
    torch.testing.assert_close(layer(x, causal=True), want, rtol=0, atol=1e-12)


def test_slots_of_one_head_are_read_by_its_features_alone():
    layer, x = (
        create("gam", dim=8, heads=2, slots=4, split=True, fusion="global").double(),
        torch.randn(1, 3, 8).double(),
    )
    assert list(layer.memory.shape) == [2, 4, 4]
    moved = x.clone()
    moved[..., 4:] += 1
    torch.testing.assert_close(layer(moved, causal=True)[..., :4], layer(x, causal=True)[..., :4], rtol=0, atol=0)
    weights = (x[0, 0, :4] @ layer.memory[0].T).softmax(-1)
    torch.testing.assert_close(layer(x, causal=True)[0, 0, :4], weights @ layer.memory[0], rtol=0, atol=1e-12)


def test_a_value_bank_of_its_own_is_what_is_read():
    layer, x = create("gam", dim=8, heads=2, slots=4, values=True, scale=0.5).double(), torch.randn(1, 3, 8).double()
    weights = (0.5 * x @ layer.memory[0].T).softmax(-1)
    torch.testing.assert_close(layer.recalled(x), weights @ layer.memory_values[0], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("fusion", "count"),
    [("gate", 8 * 3 + 8 + 5 * 8 + 16 * 8 + 16), ("sum", 8 * 3 + 8 + 5 * 8), ("local", 8 * 3 + 8), ("global", 5 * 8)],
)
def test_a_fusion_has_the_parameters_that_it_needs(fusion, count):
    layer = create("gam", dim=8, heads=2, slots=5, fusion=fusion)
    assert sum(p.numel() for p in layer.parameters()) == count


def test_a_state_is_the_last_inputs():
    layer, x = create("gam", dim=8, heads=2, slots=5, kernel=4), torch.randn(2, 9, 8)
    _, state = layer.prefill(x)
    torch.testing.assert_close(state.inner.inputs, x[:, -3:])
    _, shorter = layer.prefill(x[:, :2])
    assert shorter.inner.real.tolist() == [[False, True, True]] * 2


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"kernel": 0}, "kernel must be at least 1; got 0"),
        ({"slots": 0}, "slots must be at least 1; got 0"),
        ({"fusion": "max"}, "fusion must be one of 'gate', 'sum', 'local', 'global'; got 'max'"),
    ],
)
def test_bad_settings_are_named(settings, text):
    with pytest.raises(ValueError, match=text):
        GatedAssociativeMemory(8, 2, **settings)
    with pytest.raises(ValueError, match="dim=9 is not a multiple of heads=2"):
        GatedAssociativeMemory(9, 2, split=True)
