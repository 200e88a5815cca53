"""Dual attention: what its relational heads can and can't see, and its settings."""

from __future__ import annotations

import pytest
import torch

from regard.errors import ShapeError
from regard.mechanisms.heads import DualAttention


def _tokens(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _layer(**settings: object) -> DualAttention:
    torch.manual_seed(0)
    return DualAttention(32, 4, **settings).double()  # type: ignore[arg-type]


def test_order_does_not_matter_to_symbols_of_what_a_token_is() -> None:
    layer, x = _layer(), _tokens(2, 9, 32)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])


@pytest.mark.parametrize("symbols", ["positional", "relative"])
def test_order_matters_to_symbols_of_where_a_token_is(symbols: str) -> None:
    layer, x = _layer(symbols=symbols), _tokens(2, 9, 32)
    assert not torch.allclose(layer(x.flip(1)), layer(x).flip(1))


def test_relations_are_equal_both_ways_only_where_symmetric() -> None:
    x = _tokens(2, 9, 32)
    same, other = _layer(symmetric=True), _layer()
    torch.testing.assert_close(same.related(x), same.related(x).transpose(2, 3))
    assert not torch.allclose(other.related(x), other.related(x).transpose(2, 3))
    assert same.related(x, x[:, :4]).shape == (2, 2, 9, 4)


def test_relational_heads_see_inner_products_alone() -> None:
    """Turning tokens and the maps that are multiplied with each other by one rotation changes nothing."""
    layer, x = _layer(relational_heads=4, symbols="positional"), _tokens(2, 9, 32)
    before = layer(x)
    turn, _ = torch.linalg.qr(_tokens(32, 32, seed=5))
    assert not torch.allclose(layer(x @ turn), before)
    for name in ("q_attn", "k_attn", "q_rel", "k_rel"):
        getattr(layer, name).weight.data @= turn
    torch.testing.assert_close(layer(x @ turn), before)


def test_without_relations_and_with_symbols_that_are_the_tokens_a_head_is_an_ordinary_one() -> None:
    class Tokens(torch.nn.Module):
        def forward(self, tokens: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            return tokens

    layer, x = _layer(relational_heads=4, symbols=Tokens()), _tokens(2, 9, 32)
    plain = _layer(relational_heads=0)
    layer.w_rel.data.zero_()
    for mine, theirs in (("q", "q_attn"), ("k", "k_attn"), ("v", "w_symbol"), ("out", "out_rel")):
        getattr(plain, mine).weight.data = getattr(layer, theirs).weight.data
    torch.testing.assert_close(layer(x, causal=True), plain(x, causal=True))


def test_symbols_of_another_layer_are_shared() -> None:
    first = _layer()
    second = _layer(symbols=first.symbols)
    assert {id(p) for p in second.symbols.parameters()} == {id(p) for p in first.symbols.parameters()}


def test_shared_attention_has_one_set_of_queries_and_keys() -> None:
    apart, shared = _layer(), _layer(shared=True)
    assert shared.q_attn is shared.q
    assert sum(p.numel() for p in apart.parameters()) - sum(p.numel() for p in shared.parameters()) == 2 * 32 * 16


def test_normalised_relations_leave_hidden_tokens_out() -> None:
    layer, x = _layer(activation="softmax", relational_heads=4), _tokens(1, 6, 32)
    other = torch.cat([x[:, :4], _tokens(1, 2, 32, seed=9) * 5], 1)
    torch.testing.assert_close(layer(x, causal=True)[:, :4], layer(other, causal=True)[:, :4])


@pytest.mark.parametrize(
    ("settings", "error", "said"),
    [
        ({"relational_heads": 5}, ValueError, "must be from 0 to heads=4; got 5"),
        ({"relational_heads": -1}, ValueError, "must be from 0 to heads=4; got -1"),
        ({"relations": 3}, ShapeError, "relations=3 must divide 16"),
        ({"relations": 0}, ValueError, "relations must be at least 1; got 0"),
        ({"shared": True, "relational_heads": 1}, ValueError, "as many sensory as relational heads; got 3 and 1"),
        ({"symbols": "mine"}, ValueError, "must be one of 'symbolic', 'relational', 'positional', 'relative'"),
        ({"activation": "cube"}, ValueError, "activation must be one of 'identity'"),
        ({"n_symbols": 0}, ValueError, "n_symbols must be at least 1; got 0"),
        ({"symbols": "positional", "length": 0}, ValueError, "length must be at least 1; got 0"),
        ({"symbols": "relative", "reach": 0}, ValueError, "reach must be at least 1; got 0"),
        ({"symbols": "relational", "neighbours": 0}, ValueError, "neighbours must be at least 1; got 0"),
        ({"group": 0}, ValueError, "group must be at least 1; got 0"),
        (
            {"group": 2, "relational_heads": 1},
            ValueError,
            "both the 3 sensory and the 1 relational heads. Type group=1",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        _layer(**settings)


def test_a_position_without_a_symbol_is_refused() -> None:
    with pytest.raises(ValueError, match="Position 8 has no symbol: there are 8. Type length=9."):
        _layer(symbols="positional", length=8)(_tokens(1, 9, 32))


@pytest.mark.parametrize("symbols", ["symbolic", "relational", "relative"])
def test_turned_keys_know_distances_alone(symbols: str) -> None:
    layer, x = _layer(rope=True, symbols=symbols), _tokens(2, 9, 32)
    places = torch.arange(9)
    torch.testing.assert_close(layer(x, positions=places + 40), layer(x))
    assert not torch.allclose(layer(x, positions=2 * places), layer(x))


def test_turning_reaches_both_kinds_of_heads() -> None:
    turned, plain, x = _layer(rope=True), _layer(), _tokens(2, 9, 32)
    off = (turned(x) - plain(x)).abs().amax((0, 1))
    assert off[:16].min() > 1e-6
    assert off[16:].min() > 1e-6


def test_a_group_of_heads_has_one_key() -> None:
    grouped, whole = _layer(group=2), _layer()
    for name in ("q", "q_attn", "q_rel", "k_rel", "w_symbol", "out", "out_rel"):
        getattr(whole, name).weight.data = getattr(grouped, name).weight.data
    whole.w_rel.data = grouped.w_rel.data
    whole.symbols = grouped.symbols
    for name in ("k", "v", "k_attn"):
        shared = getattr(grouped, name).weight.data
        assert shared.shape == (8, 32)
        getattr(whole, name).weight.data = shared.repeat(2, 1)
    x = _tokens(2, 9, 32)
    torch.testing.assert_close(grouped(x, causal=True), whole(x, causal=True))


def _symbols(layer: DualAttention, x: torch.Tensor, causal: bool = True) -> torch.Tensor:
    return layer.symbols(x, torch.arange(x.shape[1])[None], layer.symbols.keys(x), causal)


@pytest.mark.parametrize("causal", [False, True])
def test_relational_symbols_see_their_neighbours_alone(causal: bool) -> None:
    layer, x = _layer(symbols="relational", neighbours=2, two_sided=True), _tokens(1, 9, 32).requires_grad_()
    out = _symbols(layer, x, causal)
    for i in range(9):
        (slope,) = torch.autograd.grad(out[0, i].square().sum(), x, retain_graph=True)
        near = range(max(i - 2, 0), (i if causal else min(i + 2, 8)) + 1)
        moved = [] if causal and i < 2 else list(near)  # of one neighbour the normalised relation is 1
        assert slope[0].abs().sum(-1).gt(1e-12).nonzero()[:, 0].tolist() == moved


def test_relational_symbols_see_inner_products_alone() -> None:
    layer, x = _layer(symbols="relational", neighbours=3), _tokens(2, 9, 32)
    before = _symbols(layer, x)
    turn, _ = torch.linalg.qr(_tokens(32, 32, seed=5))
    assert not torch.allclose(_symbols(layer, x @ turn), before)
    for name in ("query", "key"):
        getattr(layer.symbols, name).weight.data @= turn
    torch.testing.assert_close(_symbols(layer, x @ turn), before)


def test_neighbours_are_counted_without_padding_between_them() -> None:
    layer, x = _layer(symbols="relational", two_sided=True), _tokens(1, 9, 32)
    real = torch.tensor([[True, False, True, True, False, False, True, True, True]])
    torch.testing.assert_close(layer(x, padding=real)[real], layer(x[real][None])[0])


def test_heads_of_odd_width_are_not_turned() -> None:
    with pytest.raises(ShapeError, match="heads need an even width; got 3"):
        DualAttention(12, 4, rope=True)


def test_a_width_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="not a multiple of heads=5"):
        DualAttention(32, 5)
