"""Sigmoid attention beyond its spec: what its bias is, and where it comes from."""

import math

import pytest
import torch

import regard
from regard.mechanisms import Call
from regard.mechanisms.dense import SigmoidAttention


def weights(mixer: SigmoidAttention, q: torch.Tensor, k: torch.Tensor, **call: object) -> torch.Tensor:
    """The weights [B, H, N, M] that a mixer gives, read through values that are unit vectors."""
    B, _H, N, _ = q.shape
    M = k.shape[2]
    v = torch.eye(M, dtype=q.dtype).expand(B, k.shape[1], M, M)
    blank = q.new_zeros(B, M, 1)
    return mixer(q, k, v, Call(tokens=blank[:, :N], memory=blank, **call))  # type: ignore[arg-type]


def test_without_scores_a_row_sums_to_nearly_one_whatever_its_length():
    q, k = torch.zeros(1, 2, 9, 4, dtype=torch.float64), torch.randn(1, 2, 9, 4, dtype=torch.float64)
    for causal in (True, False):
        seen = torch.arange(1, 10).double() if causal else torch.full((9,), 9.0).double()
        got = weights(SigmoidAttention(2), q, k, causal=causal).sum(-1)
        torch.testing.assert_close(got, (seen / (1 + seen)).expand(1, 2, 9))


def test_only_real_keys_are_counted():
    q, k = torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 4)
    places = torch.tensor([[-1, -1, 0, 1], [0, 1, 2, -1]])
    full = weights(SigmoidAttention(1), q, k, q_positions=places, k_positions=places)
    assert full[0, 0, 2].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3])
    assert full[1, 0, 0].tolist() == pytest.approx([1 / 4, 1 / 4, 1 / 4, 0])
    causal = weights(SigmoidAttention(1), q, k, causal=True, q_positions=places, k_positions=places)
    assert causal[0, 0, 3].tolist() == pytest.approx([0, 0, 1 / 3, 1 / 3])
    assert causal[1, 0, 1].tolist() == pytest.approx([1 / 3, 1 / 3, 0, 0])
    assert causal[0, 0, 0].tolist() == [0, 0, 0, 0]


def test_a_fixed_bias_is_added_to_every_score_and_keys_do_not_compete():
    q, k = torch.randn(1, 2, 3, 4, dtype=torch.float64), torch.randn(1, 2, 5, 4, dtype=torch.float64)
    got = weights(SigmoidAttention(2, bias=-1.5), q, k)
    want = torch.sigmoid(torch.einsum("bhnd,bhmd->bhnm", q, k) / 2 - 1.5)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(weights(SigmoidAttention(2, bias=-1.5), q, k[:, :, :3]), want[..., :3])


def test_a_learned_offset_is_one_number_a_head_and_starts_at_zero():
    q, k = torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4)
    mixer = SigmoidAttention(2, learned=True)
    assert [(name, p.tolist()) for name, p in mixer.named_parameters()] == [("offset", [0.0, 0.0])]
    torch.testing.assert_close(weights(mixer, q, k), weights(SigmoidAttention(2), q, k))
    with torch.no_grad():
        mixer.offset.copy_(torch.tensor([0.0, math.log(3)]))  # type: ignore[union-attr]
    one = weights(SigmoidAttention(2, bias=-math.log(3)), q, k)
    other = weights(SigmoidAttention(2, bias=0.0), q, k)
    torch.testing.assert_close(weights(mixer, q, k), torch.stack([one[:, 0], other[:, 1]], 1))
    assert not list(SigmoidAttention(2).parameters())


@pytest.mark.parametrize("bias", [math.inf, math.nan])
def test_a_bias_that_is_not_finite_is_refused(bias: float):
    with pytest.raises(ValueError, match=rf"SigmoidAttention\.bias must be a finite number.*got {bias}.*bias=-math"):
        regard.create("sigmoid", dim=8, heads=2, bias=bias)
