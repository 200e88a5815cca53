"""Latte: the matrix that latents make, and what does not change it."""

from __future__ import annotations

import pytest
import torch

from regard.layers import create
from regard.mechanisms import Call
from regard.mechanisms.linear import LatentAttention
from regard.mechanisms.linear.latte import latent_attention


def matrix(shares: torch.Tensor, scores: torch.Tensor, causal: bool) -> torch.Tensor:
    """The weights of all tokens for each, read off with values that are the identity."""
    B, H, N, _ = shares.shape
    tokens = torch.zeros(B, N, 1)
    eye = torch.eye(N, dtype=shares.dtype).expand(B, H, N, N)
    return latent_attention(shares, scores, eye, Call(tokens=tokens, memory=tokens, causal=causal))[0]


def given(N: int = 10, latents: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    q, k = (torch.randn(2, 2, N, latents, generator=source, dtype=torch.float64) for _ in range(2))
    return q.softmax(-1), k


@pytest.mark.parametrize("causal", [True, False])
def test_weights_are_probabilities(causal):
    P = matrix(*given(), causal)
    assert (P >= 0).all()
    torch.testing.assert_close(P.sum(-1), torch.ones_like(P[..., 0]), rtol=0, atol=1e-12)


def test_the_rank_is_the_number_of_latents():
    assert torch.linalg.matrix_rank(matrix(*given(), causal=False)).unique().tolist() == [3]


@pytest.mark.parametrize("causal", [True, False])
def test_adding_to_all_scores_of_a_latent_changes_nothing(causal):
    shares, scores = given()
    moved = scores + torch.tensor([5.0, -70.0, 300.0], dtype=torch.float64)
    torch.testing.assert_close(matrix(shares, moved, causal), matrix(shares, scores, causal), rtol=0, atol=1e-10)


def test_one_latent_is_one_mean_for_all_tokens():
    layer, x = create("latte", dim=16, heads=2, latents=2).double(), torch.randn(2, 7, 16, dtype=torch.float64)
    out = layer(x)
    torch.testing.assert_close(out, out[:, :1].expand_as(out), rtol=0, atol=1e-12)


def test_the_first_token_reads_its_own_value():
    layer, x = create("latte", dim=16, heads=2).double(), torch.randn(2, 5, 16, dtype=torch.float64)
    torch.testing.assert_close(layer(x, causal=True)[:, 0], layer.out(layer.v(x[:, 0])), rtol=0, atol=1e-12)


def test_without_an_order_tokens_may_change_places():
    layer, x = create("latte", dim=16, heads=2).double(), torch.randn(2, 8, 16, dtype=torch.float64)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], rtol=0, atol=1e-12)


def test_the_state_has_a_row_for_each_latent():
    layer = create("latte", dim=16, heads=2, latents=6)
    _, state = layer.prefill(torch.randn(3, 40, 16))
    assert list(state.inner.values.shape) == [3, 2, 3, 8]
    assert list(state.inner.total.shape) == [3, 2, 3]


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"latents": 6}, "latents=6 are shared out to heads=4. Type latents=8"),
        ({"latents": 0}, "latents must be at least 1; got 0"),
    ],
)
def test_bad_settings_are_named(settings, text):
    with pytest.raises(ValueError, match=text):
        LatentAttention(32, 4, **settings)
    with pytest.raises(ValueError, match="dim=30 is not a multiple of heads=4"):
        LatentAttention(30, 4)


def test_causal_across_two_sequences_is_refused():
    x = torch.randn(1, 3, 32)
    with pytest.raises(ValueError, match="causal=True has no meaning across two sequences"):
        LatentAttention(32, 4)(x, x, causal=True)
