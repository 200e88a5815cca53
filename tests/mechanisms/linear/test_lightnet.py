"""LightNet and its two encodings: one scan, and places on a grid."""

from __future__ import annotations

import pytest
import torch

from regard.errors import ShapeError, Unsupported
from regard.layers import create
from regard.mechanisms.linear import LightNet, ToeplitzEncoding
from regard.mechanisms.positions import MDLRPE


def tokens(N: int, dim: int = 16, seed: int = 0) -> torch.Tensor:
    return torch.randn(2, N, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(**settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return create("lightnet", dim=16, heads=2, **settings).double()


def test_keys_that_stay_the_same_give_a_running_mean():
    layer, x = made(), tokens(7)
    with torch.no_grad():
        layer.k.weight.zero_()
    amount = torch.nn.functional.silu(layer.q(x)).view(2, 7, 2, 8).sum(-1)
    for causal in (True, False):
        v = layer.v(x)
        mean = v.cumsum(1) / torch.arange(1, 8)[:, None] if causal else v.mean(1, keepdim=True).expand_as(v)
        read = mean * amount.repeat_interleave(8, -1)
        normed = read / (read.square().mean(-1, keepdim=True) + 1e-6).sqrt()
        want = layer.out(normed * torch.sigmoid(layer.gate_out(layer.gate_in(x))))
        torch.testing.assert_close(layer(x, causal=causal), want, rtol=0, atol=1e-11)


def test_without_an_order_or_places_tokens_may_change_places():
    layer, x = made(), tokens(9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], rtol=0, atol=1e-12)


@pytest.mark.parametrize("lrpe", ["none", "rotary", "cosine"])
@pytest.mark.parametrize("causal", [True, False])
def test_keys_as_large_as_80_stay_finite_and_right(lrpe, causal):
    layer, x = made(lrpe=lrpe), tokens(9)
    with torch.no_grad():
        layer.k.weight.mul_(80 / layer.k(x).abs().max())
    single = made(lrpe=lrpe).float()
    single.load_state_dict(layer.state_dict())
    got, want = single(x.float(), causal=causal), layer(x, causal=causal)
    torch.testing.assert_close(got, want.float(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("lrpe", ["rotary", "half", "cosine"])
@pytest.mark.parametrize("causal", [True, False])
def test_places_far_along_are_as_places_near(lrpe, causal):
    layer, x = made(lrpe=lrpe), tokens(6)
    far = layer(x, causal=causal, positions=torch.arange(6) + 500)
    torch.testing.assert_close(far, layer(x, causal=causal), rtol=0, atol=1e-9)
    assert (layer(x, causal=causal, positions=torch.arange(6) * 2) - far).abs().max() > 1e-4


def test_a_grid_knows_rows_and_columns():
    layer, line = made(lrpe="rotary", grid=(2, 3)), made(lrpe="rotary")
    x = tokens(6)
    assert (layer(x) - line(x)).abs().max() > 1e-4
    swapped = x.view(2, 2, 3, 16).transpose(1, 2)
    turned = made(lrpe="rotary", grid=(3, 2))
    with torch.no_grad():  # features of rows become features of columns
        for name in ("q", "k"):
            weight = getattr(turned, name).weight
            weight.copy_(getattr(layer, name).weight.view(2, 2, 4, 16).flip(1).reshape(16, 16))
    got = turned(swapped.reshape(2, 6, 16)).view(2, 3, 2, 16).transpose(1, 2).reshape(2, 6, 16)
    torch.testing.assert_close(got, layer(x), rtol=0, atol=1e-11)


def test_a_grid_decodes_along_its_rows():
    layer, x = made(lrpe="rotary", grid=(2, 3)), tokens(6)
    whole, state, outs = layer(x, causal=True), layer.init_state(2), []
    for t in range(6):
        out, state = layer.step(state, x[:, t : t + 1])
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), whole, rtol=0, atol=1e-11)


def test_parameters_follow_the_widths():
    layer = create("lightnet", dim=16, heads=2, key_dim=5, gate=3)
    assert sum(p.numel() for p in layer.parameters()) == 2 * 16 * 10 + 2 * 16 * 16 + 2 * 16 * 3 + 16
    _, state = layer.prefill(torch.randn(2, 30, 16))
    assert [list(t.shape) for t in (state.inner.values, state.inner.total)] == [[2, 2, 5, 8], [2, 2, 5]]


@pytest.mark.parametrize("causal", [True, False])
def test_sums_along_rows_do_not_mix_columns(causal):
    torch.manual_seed(0)
    layer = ToeplitzEncoding(8, 2, grid=(3, 4)).double()
    with torch.no_grad():
        layer.q[0].zero_()  # no sums along columns of the grid
    x = torch.randn(1, 12, 8, dtype=torch.float64, requires_grad=True)
    at = 6  # row 1, column 2
    (slope,) = torch.autograd.grad(layer(x, causal=causal)[0, at].square().sum(), x)
    moved = (slope[0].abs().sum(-1) > 0).tolist()
    assert moved == [t // 4 == 1 and (t <= at or not causal) for t in range(12)]


def test_sums_along_both_axes_are_those_of_their_weights():
    torch.manual_seed(0)
    layer = ToeplitzEncoding(8, 2, grid=(3, 4)).double()
    x = torch.randn(2, 12, 8, dtype=torch.float64)
    down, along = layer.weights(0, 3), layer.weights(1, 4)
    found = torch.zeros(2, 3, 4, 2, 4, dtype=torch.float64)
    grid = x.view(2, 3, 4, 2, 4)
    for r in range(3):
        for c in range(4):
            for other in range(3):
                found[:, r, c] += down[:, abs(r - other), None] * grid[:, other, c]
            for other in range(4):
                found[:, r, c] += along[:, abs(c - other), None] * grid[:, r, other]
    flat = found.reshape(2, 12, 8)
    want = layer.out(flat / (flat.square().mean(-1, keepdim=True) + 1e-6).sqrt())
    torch.testing.assert_close(layer(x), want, rtol=0, atol=1e-11)
    torch.testing.assert_close(down[:, 1] / down[:, 0], torch.sigmoid(layer.rate[0]))


@pytest.mark.parametrize("turning", ["rotary", "half", "cosine"])
def test_products_know_differences_of_places_on_the_grid(turning):
    position = MDLRPE(grid=(5, 6), turning=turning)
    source = torch.Generator().manual_seed(0)
    q, k = (
        torch.randn(1, 1, 1, 12 if turning != "half" else 16, generator=source, dtype=torch.float64) for _ in range(2)
    )

    def product(a: tuple[int, int], b: tuple[int, int]) -> float:
        turned = [position.turn(x, torch.tensor([[r * 6 + c]])) for x, (r, c) in ((q, a), (k, b))]
        return float((turned[0] * turned[1]).sum())

    assert product((1, 2), (3, 1)) == pytest.approx(product((2, 4), (4, 3)), abs=1e-12)
    assert abs(product((1, 2), (3, 1)) - product((1, 2), (3, 2))) > 1e-6
    assert abs(product((1, 2), (3, 1)) - product((1, 2), (2, 1))) > 1e-6
    if turning == "half":
        assert torch.equal(position.turn(q, torch.tensor([[20]]))[..., 8:], q[..., 8:])
    assert product((2, 2), (2, 2)) == pytest.approx(float((q * k).sum()), abs=1e-12)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: LightNet(16, 2, lrpe="sine"), "lrpe must be one of 'none', 'rotary', 'half', 'cosine'; got 'sine'"),
        (lambda: LightNet(12, 4, lrpe="rotary"), "shares 3 features out to 1 axes in lots of 2.*Type key_dim=4"),
        (
            lambda: LightNet(16, 2, lrpe="rotary", grid=(2, 2, 2)),
            "shares 8 features out to 3 axes in lots of 6.*Type key_dim=12",
        ),
        (lambda: LightNet(16, 2, grid=(0, 4)), r"grid must be sizes of at least 1; got \(0, 4\)"),
        (lambda: LightNet(16, 2, key_dim=0), "key_dim must be at least 1; got 0"),
        (lambda: ToeplitzEncoding(16, 2, grid=()), r"grid must be sizes of at least 1; got \(\)"),
        (lambda: MDLRPE(turning="full"), "turning must be one of 'rotary', 'half', 'cosine'; got 'full'"),
        (lambda: MDLRPE(grid=(4, -1)), r"grid must be sizes of at least 1; got \(4, -1\)"),
        (
            lambda: create("md_lrpe", dim=24, heads=4, grid=(3, 4)),
            "heads have 6. Type another dim or heads.*multiple of 4",
        ),
    ],
)
def test_bad_settings_are_named(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_what_a_grid_can_not_take_is_named():
    x = torch.randn(1, 5, 16)
    for layer in (LightNet(16, 2, lrpe="rotary", grid=(2, 3)), ToeplitzEncoding(16, 2, grid=(2, 3))):
        with pytest.raises(ShapeError, match=r"grid=\(2, 3\) has 6 places; got 5 tokens"):
            layer(x)
        with pytest.raises(Unsupported, match="Leave .*documents out"):
            layer(torch.randn(1, 6, 16), documents=torch.tensor([0, 0, 0, 1, 1, 1]))
    with pytest.raises(Unsupported, match="not step by step"):
        ToeplitzEncoding(16, 2, grid=(2, 3)).init_state(1)
