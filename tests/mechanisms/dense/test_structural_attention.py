"""Structural attention as a mixer: what a setting can't do is refused."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.errors import Unsupported


def made(**settings: object) -> regard.layers.Attention:
    torch.manual_seed(0)
    return regard.create("structural_attention", dim=16, heads=2, **settings)


def test_assigning_keys_to_queries_is_neither_causal_nor_step_by_step() -> None:
    layer, x = made(family="assign"), torch.randn(2, 5, 16)
    assert layer(x).shape == x.shape
    with pytest.raises(Unsupported, match="Type causal=False, or another family"):
        layer(x, causal=True)
    with pytest.raises(Unsupported, match="can't decode step by step"):
        layer.init_state(2)


def test_following_edges_needs_the_whole_sequence() -> None:
    layer, x = made(value="multihop"), torch.randn(2, 5, 16)
    assert layer(x, causal=True).shape == x.shape
    with pytest.raises(Unsupported, match="or type value='sum'"):
        layer(x, torch.randn(2, 7, 16))
    with pytest.raises(Unsupported, match="can't decode step by step"):
        layer.init_state(2)


def test_sampled_edges_come_from_the_generator() -> None:
    layer, x = made(inference="sample"), torch.randn(2, 5, 16)
    runs = [layer(x, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_a_learned_geometric_prior_prefers_the_near() -> None:
    layer = made(prior="geometric")
    with torch.no_grad():
        layer.projection.q.weight.zero_()
        layer.mixer.rate.fill_(2.0)
    x = torch.randn(1, 9, 16)
    near = x @ layer.projection.v.weight.T @ layer.merge.out.weight.T
    rate = torch.sigmoid(torch.tensor(2.0))
    weights = (1 - rate) ** torch.arange(9).flip(0)
    want = (weights / weights.sum()) @ near[0]
    assert torch.allclose(layer(x, causal=True)[0, -1], want, atol=1e-5)


def test_wrong_words() -> None:
    with pytest.raises(ValueError, match="StructuralAttention.prior must be one of 'uniform', 'geometric', 'beta'"):
        made(prior="flat")
    with pytest.raises(ValueError, match="StructuralAttention: family must be one of"):
        made(family="some")


def split(layer: regard.layers.Attention, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    parts = (layer.projection.get_submodule(name)(x) for name in ("q", "k", "v"))
    q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in parts)
    return q, k, v


def test_coupled_queries_equal_the_rounds_written_out() -> None:
    layer, x = made(inference="mean_field", coupled="queries", coupling=0.7, rounds=3), torch.randn(2, 5, 16)
    q, k, v = split(layer, x)
    psi = torch.einsum("bhnd,bhmd->bhnm", q, k) / 8**0.5
    alike = torch.einsum("bhid,bhjd->bhij", q, q) * (1 - torch.eye(5))
    p = psi.softmax(-1)
    for _ in range(3):
        p = (psi + 0.7 / 8**0.5 * torch.einsum("bhij,bhjm->bhim", alike, p)).softmax(-1)
    want = layer.merge.out((p @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(layer(x), want, atol=1e-5)
    real = torch.tensor([[True] * 5 + [False] * 2]).expand(2, -1)
    assert torch.allclose(
        layer(torch.cat([x, torch.full((2, 2, 16), 9.0)], 1), padding=real)[:, :5], layer(x), atol=1e-5
    )
    ids = torch.tensor([0, 0, 1, 1, 1])
    alone = torch.cat([layer(x[:, :2]), layer(x[:, 2:])], 1)
    assert torch.allclose(layer(x, documents=ids), alone, atol=1e-5)


def test_coupled_queries_are_neither_causal_nor_step_by_step() -> None:
    layer = made(inference="mean_field", coupled="queries")
    with pytest.raises(Unsupported, match="Type causal=False, or coupled='keys'"):
        layer(torch.randn(2, 5, 16), causal=True)
    with pytest.raises(Unsupported, match="edges of tokens that are past"):
        layer.init_state(2)


def test_a_fixed_geometric_prior_is_one_over_distance() -> None:
    layer, x = made(prior="geometric", p=0.3), torch.randn(2, 6, 16)
    q, k, v = split(layer, x)
    gaps = (torch.arange(6)[:, None] - torch.arange(6)).abs()
    weights = (torch.einsum("bhnd,bhmd->bhnm", q, k) / 8**0.5).exp() * 0.3 * 0.7**gaps
    want = layer.merge.out((weights / weights.sum(-1, keepdim=True) @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(layer(x), want, atol=1e-5)
    assert "mixer.rate" not in dict(layer.named_parameters())
    # Among edges that stand alone the prior's rate itself counts, and not its fall alone.
    layer = made(family="bernoulli", prior="geometric", p=0.3)
    q, k, v = split(layer, x)
    odds = (torch.einsum("bhnd,bhmd->bhnm", q, k) / 8**0.5).exp() * 0.3 * 0.7**gaps
    want = layer.merge.out((odds / (1 + odds) @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(layer(x), want, atol=1e-5)


@pytest.mark.parametrize("family", ["bernoulli", "one_or_none"])
def test_learned_odds_start_where_fixed_ones_are(family: str) -> None:
    x = torch.randn(2, 6, 16)
    fixed, learned = (made(family=family, log_odds=-1.5, learned_odds=odds) for odds in (False, True))
    assert torch.allclose(fixed(x), learned(x))
    with torch.no_grad():
        learned.get_parameter("mixer.odds").copy_(torch.tensor([-50.0, 50.0]))
    q, k, v = split(learned, x)
    both = torch.stack([torch.zeros_like(v[:, 0]), v[:, 1].sum(1, keepdim=True).expand(-1, 6, -1)], 1)
    if family == "one_or_none":
        both[:, 1] = ((q[:, 1] @ k[:, 1].mT) / 8**0.5).softmax(-1) @ v[:, 1]
    assert torch.allclose(learned(x), learned.merge.out(both.transpose(1, 2).flatten(2)), atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"p": 0.5}, r"p is the rate of a geometric prior, between 0 and 1; got p=0.5, prior='uniform'"),
        ({"p": 1.0, "prior": "geometric"}, r"got p=1.0, prior='geometric'\. Type prior='geometric' and such a p"),
        ({"learned_odds": True}, r"family='one' always has as many edges.*or family='bernoulli' or 'one_or_none'"),
        ({"inference": "mean_field"}, r"family='one' ties edges.*coupled='keys'.*Type coupled='queries'"),
        ({"coupling": float("nan")}, r"coupling must be a finite number; got nan"),
    ],
)
def test_settings_that_do_not_go_together(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(**settings)
