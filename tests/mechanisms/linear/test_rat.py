"""RAT: chunks, what is kept of them, and the ends of its range."""

from __future__ import annotations

import math

import pytest
import torch

from regard.layers import create
from regard.mechanisms.linear import RecurrentAttention


def made(**settings: object) -> torch.nn.Module:
    torch.manual_seed(0)
    layer = create("rat", dim=16, heads=4, **settings).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(torch.randn_like(p) * 0.3)
    return layer


def test_shut_gates_attend_to_every_last_token_of_a_chunk_and_to_the_own():
    layer, x, L = made(chunk=4, rope=False, groups=4), torch.randn(1, 11, 16, dtype=torch.float64), 4
    with torch.no_grad():
        layer.gate.weight.zero_()
        layer.gate.bias.fill_(-1e3)  # nothing of the past stays
    q, k, v = (f(x)[0].view(11, 4, 4) for f in (layer.q, layer.k, layer.v))
    rows = []
    for t in range(11):
        places = [c * L + L - 1 for c in range(t // L)] + [t]
        weights = torch.einsum("hd,phd->hp", q[t], k[places]).div(2).softmax(-1)
        rows.append(torch.einsum("hp,phd->hd", weights, v[places]).flatten())
    want = layer.out(torch.sigmoid(layer.open(x)) * torch.stack(rows)[None])
    torch.testing.assert_close(layer(x, causal=True), want, rtol=0, atol=1e-12)


def test_a_chunk_does_not_know_the_means_of_the_one_before():
    layer, x = made(chunk=4), torch.randn(1, 8, 16, dtype=torch.float64)
    _, both = layer.prefill(x)
    _, alone = layer.prefill(x[:, 4:])
    torch.testing.assert_close(both.inner.running, alone.inner.running, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("tokens", "entries"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (41, 11)])
def test_what_is_kept_is_one_entry_for_each_chunk(tokens, entries):
    layer = made(chunk=4)
    x = torch.randn(2, tokens, 16, dtype=torch.float64)
    _, state = layer.prefill(x)
    closed = state.inner.keys.shape[2]
    assert closed + 1 == entries == math.ceil(tokens / 4)  # the open chunk's running mean is the last entry
    assert list(state.inner.running.shape) == [2, 32]


def test_positions_with_gaps_start_chunks_where_they_say():
    layer, x = made(chunk=4), torch.randn(1, 6, 16, dtype=torch.float64)
    whole = layer(x, causal=True, positions=torch.tensor([0, 1, 2, 3, 4, 5]))
    torch.testing.assert_close(layer(x, causal=True), whole, rtol=0, atol=1e-12)
    apart = layer(x, causal=True, positions=torch.tensor([0, 1, 2, 4, 5, 6]))  # a chunk of three
    assert (apart[:, 3] - whole[:, 3]).abs().max() > 1e-4
    torch.testing.assert_close(apart[:, :3], whole[:, :3], rtol=0, atol=1e-12)


def test_padding_between_tokens_is_outside_the_chunks():
    layer, x = made(chunk=4), torch.randn(1, 9, 16, dtype=torch.float64)
    real = torch.tensor([[True, True, False, True, True, False, True, True, True]])  # the second ends a chunk
    out = layer(x, causal=True, padding=real)
    torch.testing.assert_close(out[real], layer(x[real][None], causal=True)[0], rtol=0, atol=1e-12)


def test_groups_are_dealt_round_in_turn():
    few, many = made(groups=2), made(groups=4)
    state = few.state_dict()
    for name in ("q.weight", "k.weight"):
        state[name] = state[name].repeat(2, 1)  # heads 0 and 2 read group 0
    many.load_state_dict(state)
    x = torch.randn(1, 20, 16, dtype=torch.float64)
    torch.testing.assert_close(few(x, causal=True), many(x, causal=True), rtol=0, atol=1e-12)


def test_gates_reach_back_from_one_token_to_the_chunk():
    bias = create("rat", dim=512, heads=4, chunk=33).gate.bias.exp()
    assert 1 <= bias.min() < 2
    assert 31 < bias.max() <= 32


def test_parameters():
    layer = create("rat", dim=32, heads=4, groups=2)
    assert sum(p.numel() for p in layer.parameters()) == 4 * 32 * 32 + 32 + 2 * 32 * 16


@pytest.mark.parametrize(
    ("sizes", "settings", "text"),
    [
        ((32, 4), {"chunk": 0}, "chunk must be at least 1; got 0"),
        ((32, 4), {"groups": 3}, "groups=3 must divide heads=4. Type groups=2"),
        ((32, 4), {"groups": 0}, "groups must be at least 1; got 0"),
        ((12, 4), {}, "with rope=True turns pairs of features"),
        ((30, 4), {}, "dim=30 is not a multiple of heads=4"),
    ],
)
def test_bad_settings_are_named(sizes, settings, text):
    with pytest.raises(ValueError, match=text):
        RecurrentAttention(*sizes, **settings)
