"""Softmax with sinks beyond its spec: what the learned logits do."""

import math

import pytest
import torch

import regard
from regard.mechanisms import Call
from regard.mechanisms.dense import SoftmaxWithSinks


def weights(mixer: SoftmaxWithSinks, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """The weights [B, H, N, M], read through values that are unit vectors."""
    M = k.shape[2]
    blank = q.new_zeros(q.shape[0], M, 1)
    v = torch.eye(M, dtype=q.dtype).expand(*k.shape[:2], M, M)
    return mixer(q, k, v, Call(tokens=blank[:, : q.shape[2]], memory=blank))


def test_a_sink_takes_the_weight_of_a_key_with_its_logit():
    torch.manual_seed(0)
    mixer = SoftmaxWithSinks(2).double()
    q, k = torch.randn(1, 2, 3, 4, dtype=torch.float64), torch.randn(1, 2, 5, 4, dtype=torch.float64)
    with torch.no_grad():
        mixer.sinks.copy_(torch.tensor([0.7, -1.3]))
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / 2
    scores = torch.cat([scores, mixer.sinks.detach().view(1, 2, 1, 1).expand(1, 2, 3, 1)], -1)
    torch.testing.assert_close(weights(mixer, q, k), scores.softmax(-1)[..., :-1])


def test_the_gradient_of_a_sink_takes_weight_from_all_keys():
    mixer = SoftmaxWithSinks(1).double()
    q = torch.randn(1, 1, 2, 4, dtype=torch.float64)
    kept = weights(mixer, q, q).sum(-1)
    kept.sum().backward()
    # d/ds of Z / (e^s + Z) is minus kept (1 - kept).
    torch.testing.assert_close(mixer.sinks.grad, -(kept * (1 - kept)).sum().detach()[None])


def test_there_is_one_logit_a_head_with_the_start_that_was_asked_for():
    layer = regard.create("softmax_with_sinks", dim=8, heads=4, start=-2.0)
    assert layer.get_parameter("mixer.sinks").tolist() == [-2.0] * 4


@pytest.mark.parametrize("start", [-math.inf, math.nan])
def test_a_start_that_is_not_finite_is_refused(start: float):
    with pytest.raises(ValueError, match=rf"SoftmaxWithSinks\.start must be finite.*got {start}\. Type start=0\.0"):
        regard.create("softmax_with_sinks", dim=8, heads=2, start=start)
