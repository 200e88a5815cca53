"""Knocking heads: one transform for all of them, that can be absorbed where it is linear."""

from __future__ import annotations

import pytest
import torch

from regard.errors import Unsupported
from regard.layers import Attention, create
from regard.mechanisms.heads import KnockingHeads

C, H = 32, 4


def layer(**settings: object) -> Attention:
    torch.manual_seed(0)
    made = create("knocking_heads", dim=C, heads=H, **settings).double()
    assert isinstance(made, Attention)
    return made


def stirred(made: Attention) -> Attention:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return made


def tokens() -> torch.Tensor:
    return torch.randn(2, 7, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(
    ("settings", "squares"),
    [({}, 3), ({"variant": "linear"}, 1), ({"variant": "linear", "on": "qkv"}, 3), ({"on": "qv"}, 4)],
)
def test_the_transforms_are_shared_by_all_heads(settings, squares):
    for heads in (2, 4):
        projection = KnockingHeads(heads * 8, heads, **settings)
        assert sum(p.numel() for p in projection.shared.parameters()) == squares * 8 * 8


@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("bias", [False, True])
def test_absorbed_linear_transforms(kv_heads, bias):
    made = stirred(layer(variant="linear", on="qkv", kv_heads=kv_heads, bias=bias))
    plain = create("gqa", dim=C, heads=H, kv_heads=kv_heads, bias=bias).double()
    plain.projection.load_state_dict(made.projection.absorbed())
    plain.merge.load_state_dict(made.merge.state_dict())
    x = tokens()
    torch.testing.assert_close(plain(x, causal=True), made(x, causal=True), rtol=0, atol=1e-12)


def test_a_gated_transform_is_not_absorbed():
    with pytest.raises(Unsupported, match="can't absorb the gated transform of variant='mlp'"):
        layer().projection.absorbed()
    KnockingHeads(C, H, variant="mlp", on="k").absorbed()  # it has none


def test_heads_can_be_permuted():
    made = stirred(layer())
    x, order = tokens(), torch.tensor([2, 0, 3, 1])
    before = made(x)
    with torch.no_grad():
        for linear in (made.projection.q, made.projection.k, made.projection.v):
            linear.weight.copy_(linear.weight.unflatten(0, (H, -1))[order].flatten(0, 1))
        out = made.merge.out.weight
        out.copy_(out.unflatten(1, (H, -1))[:, order].flatten(1))
    torch.testing.assert_close(made(x), before, rtol=0, atol=1e-12)


def test_scaled_values_scale_the_output():
    made, x = stirred(layer(variant="linear")), tokens()
    before = made(x)
    with torch.no_grad():
        made.projection.shared["v"].weight.mul_(3)
    torch.testing.assert_close(made(x), 3 * before, rtol=0, atol=1e-11)


def test_the_identity_is_left_at_once_and_random_starts_elsewhere():
    made, x = layer(), tokens()
    (made(x) * tokens()).sum().backward()
    for name, parameter in made.projection.shared.named_parameters():
        off = parameter.grad - parameter.grad.diag().diag()
        assert off.abs().max() > 1e-6, name
    plain = create("mha", dim=C, heads=H).double()
    for init, equal in (("identity", True), ("random", False)):
        other = layer(init=init)
        plain.projection.load_state_dict({k: v for k, v in other.projection.state_dict().items() if "shared" not in k})
        plain.merge.load_state_dict(other.merge.state_dict())
        assert torch.allclose(other(x), plain(x), atol=1e-12) == equal


def test_decoding_keeps_the_transformed_values():
    made, x = stirred(layer(kv_heads=2)), tokens()
    _, state = made.prefill(x)
    raw = made.projection.v(x).unflatten(-1, (2, -1)).transpose(1, 2)
    kept = state.inner.kept.parts[1]
    assert kept.shape == raw.shape
    torch.testing.assert_close(kept, made.projection.shared["v"](raw))
    assert not torch.allclose(kept, raw)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"variant": "cubic"}, "variant must be one of 'mlp', 'linear'; got 'cubic'"),
        ({"on": ()}, r"on must name one or more of 'q', 'k' and 'v'; got \(\). Type on='v'"),
        ({"on": "vo"}, "on must name one or more of 'q', 'k' and 'v'; got 'vo'"),
        ({"init": "zeros"}, "init must be one of 'identity', 'random'; got 'zeros'"),
        ({"kv_heads": 3}, "kv_heads=3 must divide heads=4. Type kv_heads=2"),
    ],
)
def test_bad_settings_are_named(settings, text):
    with pytest.raises(ValueError, match=text):
        KnockingHeads(C, H, **settings)
