"""What the suite can't derive for SHA-RNN."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regard.errors import ShapeError
from regard.mechanisms.memory import SingleHeadedAttentionRNN

C = 12


def layer(**settings: object) -> SingleHeadedAttentionRNN:
    torch.manual_seed(0)
    return SingleHeadedAttentionRNN(C, **settings).double()  # type: ignore[arg-type]


def test_collapsing_changes_nothing_but_the_parameters() -> None:
    one, x = layer(), torch.randn(2, 9, C, dtype=torch.float64)
    before, held = one(x, causal=True), sum(p.numel() for p in one.parameters())
    one.collapse()
    torch.testing.assert_close(one(x, causal=True), before, rtol=0, atol=1e-12)
    assert held - sum(p.numel() for p in one.parameters()) == 2 * C * C + 2 * C
    one.collapse()
    torch.testing.assert_close(one(x, causal=True), before, rtol=0, atol=1e-12)


def test_parameters_of_head_and_boom() -> None:
    one = layer(attention=True)
    head = sum(p.numel() for p in (one.q.weight, one.scale_q, one.scale_k, one.scale_v))
    assert head == C * C + 3 * C
    assert sum(p.numel() for p in one.wide.parameters()) == 4 * C * C + 4 * C


def test_without_the_head_it_is_an_lstm_and_a_map() -> None:
    one, x = layer(attention=False), torch.randn(2, 7, C, dtype=torch.float64)
    h = one.lstm(one.norm_start(x))[0]
    z = one.wide(one.norm_boom(h))
    z = z * torch.sigmoid(1.702 * z)
    want = one.norm_out(h) + z.reshape(2, 7, 4, C).sum(2)
    torch.testing.assert_close(one(x, causal=True), want, rtol=0, atol=1e-12)
    assert not [name for name, _ in one.named_parameters() if name.startswith("scale")]


def test_one_vector_is_kept_for_each_state_and_no_gradient_goes_back() -> None:
    one, x = layer(memory=5), torch.randn(2, 9, C, dtype=torch.float64).requires_grad_()
    _, state = one.prefill(x)
    (kept,) = state.inner.memory.parts
    assert kept.shape == (2, 1, 4, C)
    more = torch.randn(2, 3, C, dtype=torch.float64)
    one.step(state, more)[0].sum().backward()
    assert x.grad is None


def test_dropping_the_memory_leaves_the_network() -> None:
    """Scaled to nothing, the remembered states change nothing: the LSTM is what remains."""
    one, x = layer(), torch.randn(1, 6, C, dtype=torch.float64)
    with torch.no_grad():
        assert isinstance(one.over, nn.Linear)
        one.over.weight.zero_()
        one.over.bias.zero_()
    h = one.norm_query(one.lstm(one.norm_start(x))[0])
    z = one.wide(one.norm_boom(h))
    want = one.norm_out(h) + (z * torch.sigmoid(1.702 * z)).reshape(1, 6, 4, C).sum(2)
    torch.testing.assert_close(one(x, causal=True), want, rtol=0, atol=1e-12)


def test_wrong_input_says_what_to_type() -> None:
    with pytest.raises(ValueError, match="memory must be at least 1; got 0"):
        layer(memory=0)
    one = layer()
    with pytest.raises(ShapeError, match="This state has batch 2, and 3 rows came. Begin anew"):
        one.step(one.init_state(2), torch.zeros(3, 1, C, dtype=torch.float64))
