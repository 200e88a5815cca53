"""What the suite can't derive for Titans: limits at which the memory is something known, and what it is for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.errors import ShapeError
from regard.masks import causal
from regard.mechanisms.memory import Titans
from regard.ops import FastWeights, Writing, attend, fast_weights, learn, recur

B, M, N, D = 2, 1, 14, 6


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_one_layer_without_momentum_is_the_delta_rule() -> None:
    """M_t = M_{t-1} + 2 theta k (v - k M)^T."""
    q, k, v = (rand(B, M, N, D, seed=n) for n in range(3))
    k = F.normalize(k, dim=-1)
    theta = torch.full((B, M, N), 0.2, dtype=torch.float64)
    still = Writing(theta, torch.full_like(theta, -torch.inf), torch.zeros_like(theta))
    got, _ = learn(fast_weights((torch.zeros(M, D, D, dtype=torch.float64),), B), q, k, v, still, chunk=1)
    torch.testing.assert_close(got, recur(q, k, v, write="delta", beta=2 * theta), rtol=0, atol=1e-12)


def test_gradients_at_empty_weights_are_linear_attention() -> None:
    """A chunk that began empty asks for -2 v k^T: with one chunk, momentum 0 and nothing forgotten, keys times values."""
    q, k, v = (rand(B, M, N, D, seed=n) for n in range(3))
    theta = torch.full((B, M, N), 0.5, dtype=torch.float64)
    still = Writing(theta, torch.full_like(theta, -torch.inf), torch.zeros_like(theta))
    got, _ = learn(fast_weights((torch.zeros(M, D, D, dtype=torch.float64),), B), q, k, v, still, chunk=16)
    torch.testing.assert_close(got, recur(q, k, v), rtol=0, atol=1e-12)


def test_without_steps_the_network_never_changes() -> None:
    q, k, v = (rand(B, M, N, D, seed=n) for n in range(3))
    first = (rand(M, D, 8, seed=7), rand(M, 8, D, seed=8))
    none = torch.zeros(B, M, N, dtype=torch.float64)
    got, after = learn(fast_weights(first, B), q, k, v, Writing(none, none.sub(1), none), chunk=4)
    torch.testing.assert_close(got, F.silu(q @ first[0]) @ first[1], rtol=0, atol=1e-12)
    torch.testing.assert_close(after.weights[0], first[0].expand(B, -1, -1, -1))


def test_forgetting_all_leaves_the_last_update_alone() -> None:
    q, k, v = (rand(B, M, N, D, seed=n) for n in range(3))
    first = (rand(M, D, D, seed=7),)
    theta = torch.full((B, M, N), 0.3, dtype=torch.float64)
    gone = torch.full_like(theta, -torch.inf)
    got, _ = learn(fast_weights(first, B), q, k, v, Writing(theta, gone, gone), chunk=N)
    error = 2 * (k @ first[0] - v)
    torch.testing.assert_close(got, -0.3 * (q * k).sum(-1, keepdim=True) * error, rtol=0, atol=1e-12)


def test_what_is_shown_again_is_missed_by_less() -> None:
    """The memory's own error falls when the same pairs come again."""
    k, v = F.normalize(rand(1, 1, 4, D), dim=-1), rand(1, 1, 4, D, seed=1)
    theta = torch.full((1, 1, 4), 0.1, dtype=torch.float64)
    writing = Writing(theta, torch.full_like(theta, 0.5).log(), torch.zeros_like(theta))
    state, missed = fast_weights((0.1 * rand(1, D, 8, seed=2), 0.1 * rand(1, 8, D, seed=3)), 1), []
    for _ in range(30):
        out, state = learn(state, k, k, v, writing, chunk=4, before=True)
        missed.append(float((out - v).square().mean()))
    assert missed[-1] < 0.2 * missed[0]


def test_the_outer_loss_reaches_gates_and_first_weights() -> None:
    layer = Titans(16, 2, chunk=2)
    layer(torch.randn(1, 7, 16), causal=True).square().sum().backward()
    for name in ("writing.weight", "writing.bias", "first.0", "first.1", "recall.weight", "tokens"):
        slope = layer.get_parameter(name).grad
        assert slope is not None, name
        assert slope.abs().max() > 0, name


def test_a_gate_that_is_one_over_a_wide_window_is_full_attention() -> None:
    layer = Titans(16, 2, window=100, persistent=0).double()
    with torch.no_grad():
        layer.recalled.weight.zero_()  # a gate of a half everywhere
    x = rand(2, 9, 16)
    from regard.mechanisms.rotary import frequencies, turned

    q, k, v = (one(x).unflatten(-1, (2, 8)).transpose(1, 2) for one in (layer.q, layer.k, layer.v))
    at, steps = torch.arange(9)[None], frequencies(8, 10000.0, x)
    seen = attend(turned(q, at, steps), turned(k, at, steps), v, where=causal()).transpose(1, 2).flatten(2)
    want = layer.out(layer.attended(seen) / 2)
    torch.testing.assert_close(layer(x, causal=True), want, rtol=0, atol=1e-10)


def test_the_state_does_not_grow() -> None:
    layer = Titans(16, 2, window=8, chunk=4)
    sizes = []
    for n in (40, 80):
        inner = layer.prefill(torch.randn(1, n, 16))[1].inner
        network: FastWeights = inner.network
        sizes.append(sum(w.numel() for w in network.weights) + inner.view.positions.numel() + network.inputs[0].numel())
    assert sizes[0] == sizes[1]


WRONG = [
    (
        lambda: Titans(16, 2, mode="mag"),
        ValueError,
        "mode must be one of 'gate', 'context', 'layer', 'memory'; got 'mag'",
    ),
    (lambda: Titans(16, 2, chunk=0), ValueError, "chunk must be at least 1; got 0"),
    (lambda: Titans(16, 2, rate=0.0), ValueError, "rate must be above 0; got 0.0"),
    (lambda: Titans(16, 2, memory_heads=3), ShapeError, "dim=16 is not a multiple of heads=3"),
    (lambda: fast_weights((torch.zeros(1, 4, 5), torch.zeros(1, 4, 5)), 2), ShapeError, "widths must agree"),
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG, ids=[text for _, _, text in WRONG])
def test_wrong_input_says_what_to_type(call, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()
