"""Multiple head embeddings: what they cost, and what decoding keeps."""

from __future__ import annotations

import pytest
import torch

from regard.layers import create
from regard.mechanisms.heads import MultipleHeadEmbeddings


@pytest.mark.parametrize("variant", ["mul", "add"])
def test_three_projections_of_one_head_and_three_embeddings_per_head(variant):
    layer = create("mhe", dim=48, heads=6, variant=variant)
    C, H, D = 48, 6, 8
    assert sum(p.numel() for p in layer.parameters()) == 3 * C * D + 3 * H * D + H * D * C


def test_decoding_keeps_one_key_and_one_value_whatever_the_heads():
    layer = create("mhe", dim=32, heads=4)
    _, state = layer.prefill(torch.randn(2, 5, 32))
    assert [list(part.shape) for part in state.inner.kept.parts] == [[2, 1, 5, 8], [2, 1, 5, 8]]


def test_added_key_embeddings_change_nothing_and_value_embeddings_are_a_bias():
    torch.manual_seed(0)
    layer = create("mhe", dim=32, heads=4, variant="add").double()
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    before = layer(x)
    with torch.no_grad():
        layer.projection.shift_k.normal_()
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-12)
    moved = torch.randn(4, 8, dtype=torch.float64)
    with torch.no_grad():
        layer.projection.shift_v.add_(moved)
    torch.testing.assert_close(layer(x), before + layer.merge.out.weight @ moved.flatten(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("variant", ["mul", "add"])
@pytest.mark.parametrize("bias", [False, True])
def test_folded_into_one_key_and_one_value_it_does_the_same(variant, bias):
    torch.manual_seed(0)
    layer = create("mhe", dim=32, heads=4, variant=variant, bias=bias).double()
    with torch.no_grad():
        for parameter in layer.projection.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    plain = create("mqa", dim=32, heads=4, bias=True, merge="concat:bias=true").double()
    ends = torch.randn(32, dtype=torch.float64) if bias else None
    projection, merge = layer.projection.folded(layer.merge.out.weight, ends)
    plain.projection.load_state_dict(projection)
    plain.merge.load_state_dict(merge)
    x = torch.randn(2, 7, 32, dtype=torch.float64)
    want = layer(x, causal=True) if ends is None else layer(x, causal=True) + ends
    torch.testing.assert_close(plain(x, causal=True), want, rtol=0, atol=1e-12)


def test_heads_start_apart():
    projection = MultipleHeadEmbeddings(32, 4)
    for which in "qkv":
        own = getattr(projection, f"scale_{which}").detach()
        assert 0.01 < own.std() < 0.03
        assert (own[0] != own[1]).any()


@pytest.mark.parametrize(
    ("sizes", "settings", "text"),
    [
        ((32, 4), {"variant": "sum"}, "variant must be one of 'mul', 'add'; got 'sum'"),
        ((32, 0), {}, "needs dim >= 1 and heads >= 1; got dim=32, heads=0"),
        ((0, 4), {}, "needs dim >= 1 and heads >= 1; got dim=0, heads=4"),
        ((30, 4), {}, "dim=30 is not a multiple of heads=4"),
    ],
)
def test_bad_settings_are_named(sizes, settings, text):
    with pytest.raises(ValueError, match=text):
        MultipleHeadEmbeddings(*sizes, **settings)
