"""Grouped attention: what a group is, and what it costs."""

from __future__ import annotations

import pytest
import torch

import regard.testing
from regard.errors import ShapeError
from regard.mechanisms.heads import GroupedAttention
from regard.testing import operations


def _layer(**settings: object) -> GroupedAttention:
    torch.manual_seed(0)
    return GroupedAttention(32, 4, **settings).double()  # type: ignore[arg-type]


def _tokens(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("settings", [{"group": 3, "relative": True}, {"group": 5, "bias": False}])
def test_odd_groups_keep_what_is_claimed(settings: dict[str, object]) -> None:
    only = ["shape", "padding", "batch independence", "gradcheck", "bidirectional: both sides", "packed documents"]
    only += ["causal: no future", "causal: a beginning", "decode: step by step", "decode: after a prefill"]
    only += ["decode: a state is a value", "decode: padded prompt"]
    assert regard.testing.check(GroupedAttention(32, 4, **settings), only=only)  # type: ignore[arg-type]


def test_moving_whole_groups_moves_the_outputs() -> None:
    layer, x = _layer(group=3), _tokens(1, 12, 32)
    torch.testing.assert_close(layer(x.roll(3, 1)), layer(x).roll(3, 1))
    assert not torch.allclose(layer(x.roll(1, 1)), layer(x).roll(1, 1))


def test_one_group_reads_its_own_values() -> None:
    layer, x = _layer(group=12, relative=True), _tokens(2, 12, 32)
    torch.testing.assert_close(layer(x), layer.out(layer.v(x)))


def test_without_its_parameters_there_is_no_position() -> None:
    layer, plain, x = _layer(relative=True), _layer(), _tokens(2, 12, 32)
    plain.load_state_dict({n: p for n, p in layer.state_dict().items() if n in plain.state_dict()})
    assert not torch.allclose(layer(x), plain(x))
    for p in (layer.of_content, layer.of_position, layer.position.weight, layer.position.bias):
        p.data.zero_()
    torch.testing.assert_close(layer(x), plain(x))


def test_the_tokens_of_a_group_share_their_weights() -> None:
    """A token's value reaches only its own place of the other groups."""
    layer = _layer(group=4).requires_grad_(False)
    for name in ("q", "k"):
        getattr(layer, name).weight.zero_()
    layer.out.weight.copy_(torch.eye(32))
    x = _tokens(1, 12, 32).requires_grad_()
    (slope,) = torch.autograd.grad(layer(x)[0, 5].sum(), x)
    assert slope[0].abs().sum(-1).nonzero()[:, 0].tolist() == [1, 5, 9]


@pytest.mark.parametrize("group", [1, 2, 4])
def test_scores_cost_less_by_the_group(group: int) -> None:
    layer, N, C = GroupedAttention(32, 4, group=group), 64, 32
    assert operations(lambda: layer(torch.randn(1, N, C))) == 8 * N * C * C + 4 * N * N * C // group


@pytest.mark.parametrize(("group", "heads"), [(2, 4), (4, 4), (3, 4), (4, 2)])
def test_a_causal_group_whose_heads_are_of_one_token_is_the_papers(group: int, heads: int) -> None:
    """Where group divides heads, masking groups is causal already; elsewhere it is not, and the outputs differ."""
    torch.manual_seed(0)
    layer, x = GroupedAttention(32, heads, group=group).double(), _tokens(1, 12, 32)
    width = group * 32 // heads
    q, k, v = (m(x).view(1, 12 // group, heads, width).transpose(1, 2) for m in (layer.q, layer.k, layer.v))
    out = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    masked = layer.out(out.transpose(1, 2).reshape(1, 12, 32))
    assert torch.allclose(layer(x, causal=True), masked) == (heads % group == 0)
    torch.testing.assert_close(layer(x, causal=True)[:, group - 1 :: group], masked[:, group - 1 :: group])


@pytest.mark.parametrize("group", [1, 2, 4])
def test_causal_scores_cost_no_more_where_heads_are_of_one_token(group: int) -> None:
    layer, N, C = GroupedAttention(32, 4, group=group), 64, 32
    assert operations(lambda: layer(torch.randn(1, N, C), causal=True)) <= 8 * N * C * C + 4 * N * N * C // group


def test_a_state_of_an_unfinished_group_goes_on_over_its_border() -> None:
    layer, x = _layer(group=3, relative=True), _tokens(2, 11, 32)
    whole = layer(x, causal=True)
    out, state = layer.prefill(x[:, :4])
    assert state.inner.asked.shape == (2, 2, 32)
    assert [list(part.shape) for part in state.inner.held.parts] == [[2, 1, 4, 32]] * 2
    torch.testing.assert_close(out, whole[:, :4])
    for first, last in ((4, 5), (5, 8), (8, 11)):
        out, state = layer.step(state, x[:, first:last])
        torch.testing.assert_close(out, whole[:, first:last])


def test_the_first_group_of_a_causal_call_reads_its_own_values() -> None:
    layer, x = _layer(group=3), _tokens(2, 12, 32)
    values = layer.out(layer.v(x))
    out = layer(x, causal=True)
    torch.testing.assert_close(out[:, : layer.alone], values[:, : layer.alone])
    assert not torch.isclose(out[:, layer.alone :], values[:, layer.alone :]).all(-1).any()


def test_padding_between_real_tokens_is_absent() -> None:
    layer, x = _layer(group=3, relative=True), _tokens(1, 9, 32)
    real = torch.tensor([[True, False, True, True, False, False, True, True, True]])
    torch.testing.assert_close(layer(x, padding=real)[real], layer(x[real][None])[0])


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="group must be at least 1; got 0"):
        _layer(group=0)
    with pytest.raises(ShapeError, match="group [*] dim = 60 is not a multiple of heads=8. Type group=4."):
        GroupedAttention(30, 8, group=2)
    with pytest.raises(ValueError, match="needs an even dim; got 9"):
        GroupedAttention(9, 3, relative=True)
