"""What the suite can't derive for the recurrent memory."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.masks import causal, chunks
from regard.mechanisms.memory import RecurrentMemoryAttention
from regard.mechanisms.rotary import frequencies, turned
from regard.ops import attend


def layer(**settings: object) -> RecurrentMemoryAttention:
    torch.manual_seed(0)
    return RecurrentMemoryAttention(16, 2, **{"segment": 8, "chunk": 4, "slots": 3, **settings}).double()  # type: ignore[arg-type]


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("path", [0, 1])
def test_one_path_alone(path: int) -> None:
    """All weight on the first path is causal attention on the segment; on the second, on the chunk."""
    one = layer()
    with torch.no_grad():
        one.weights.fill_(-1e9)
        one.weights[path] = 0.0
    x, steps = rand(1, 8, 16), frequencies(8, 10000.0, torch.zeros(1).double())
    q, k, v = (part(x).unflatten(-1, (2, 8)).transpose(1, 2) for part in (one.q, one.k, one.v))
    at = torch.arange(8)[None]
    where = causal() if path == 0 else causal() & chunks(4)
    want = attend(turned(q, at, steps), turned(k, at, steps), v, where=where).transpose(1, 2).flatten(2)
    torch.testing.assert_close(one(x, causal=True), one.out(want), rtol=0, atol=1e-12)


def test_a_chunk_as_long_as_the_segment_is_the_segment() -> None:
    a, b = layer(chunk=8), layer(chunk=8)
    with torch.no_grad():
        b.weights[1] = -1e9
        b.weights[2] = a.weights[2] = -1e9
    torch.testing.assert_close(a(rand(1, 8, 16), causal=True), b(rand(1, 8, 16), causal=True), rtol=0, atol=1e-12)


def test_memory_is_a_queue_of_at_most_its_slots() -> None:
    one = layer()
    _, state = one.prefill(rand(1, 8, 16))
    assert state.inner.slots.shape == (1, 2, 16)
    _, later = one.step(state, rand(1, 8, 16, seed=1))
    assert later.inner.slots.shape == (1, 3, 16)
    # Its own two are the newest; the oldest of the three is the newest of before, since the first made room.
    torch.testing.assert_close(later.inner.slots[:, 0], state.inner.slots[:, 1])


def test_an_open_gate_copies_and_a_closed_one_writes() -> None:
    one = layer()
    x = rand(1, 8, 16)
    with torch.no_grad():
        one.gate.weight.zero_()
        one.gate.bias.fill_(-1e9)
    out, state = one.prefill(x)
    means = out.unflatten(1, (2, 4)).mean(2)
    torch.testing.assert_close(state.inner.slots, torch.tanh(one.update(means)), rtol=0, atol=1e-12)
    with torch.no_grad():
        one.gate.bias.fill_(1e9)
    assert not one.prefill(x)[1].inner.slots.any()  # copies of the empty slot


def test_what_an_earlier_segment_said_is_seen_through_the_memory_alone() -> None:
    for slots in (3, 0):
        one = layer(slots=slots)
        x, other = rand(1, 16, 16), rand(1, 16, 16)
        other[:, :8] = rand(1, 8, 16, seed=9)
        moved = (one(x, causal=True) - one(other, causal=True))[:, 8:].abs().max()
        assert (moved > 1e-6) == (slots > 0)


def test_gradients_end_at_a_segment_unless_asked_for_more() -> None:
    for bptt in (0, 2):
        one = layer(bptt=bptt)
        x = rand(1, 16, 16).requires_grad_()
        one(x, causal=True)[:, 8:].square().sum().backward()
        assert x.grad is not None
        assert bool(x.grad[:, :8].any()) == (bptt > 0)
        assert one.update.weight.grad is not None
        assert one.update.weight.grad.any()


def test_wrong_input_says_what_to_type() -> None:
    with pytest.raises(ValueError, match="segment=10 must be a multiple of chunk=4. Type segment=8"):
        RecurrentMemoryAttention(16, 2, segment=10, chunk=4)
    with pytest.raises(ValueError, match="slots must be at least 0; got -1"):
        RecurrentMemoryAttention(16, 2, slots=-1)
