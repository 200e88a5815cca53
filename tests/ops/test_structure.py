"""Attention as marginals over latent edges: every family against enumeration, and the attentions that it holds."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.errors import ShapeError
from regard.ops.structure import marginals, structural_attention

FAMILIES = ("one", "one_or_none", "bernoulli", "k_subset", "assign")
N, M, D = 3, 5, 4


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def qkv() -> tuple[Tensor, Tensor, Tensor]:
    return draw(2, 2, N, D), draw(2, 2, M, D, seed=1), draw(2, 2, M, 6, seed=2)


def sets(family: str, count: int, size: int) -> list[tuple[int, ...]]:
    """Every set of edges that one row of `count` keys may have."""
    every = [s for n in range(count + 1) for s in itertools.combinations(range(count), n)]
    allowed = {"one": {1}, "one_or_none": {0, 1}, "k_subset": {size}}.get(family)
    return [s for s in every if allowed is None or len(s) in allowed]


@pytest.mark.parametrize("size", [1, 2, 4, 5])
@pytest.mark.parametrize("family", FAMILIES)
def test_marginals_and_evidence_are_sums_over_all_sets_of_edges(family: str, size: int) -> None:
    scores, seen = draw(N, M), torch.ones(N, M, dtype=torch.bool)
    found, evidence = marginals(scores, seen, family, size)
    rows = scores.T if family == "assign" else scores
    for row, (s, z) in enumerate(zip(rows, evidence, strict=True)):
        choices = sets("one" if family == "assign" else family, len(s), size)
        powers = [math.exp(sum(float(s[j]) for j in one)) for one in choices]
        total = sum(powers)
        assert math.isclose(float(z), math.log(total), rel_tol=1e-9)
        for j in range(len(s)):
            p = sum(power for one, power in zip(choices, powers, strict=True) if j in one) / total
            got = found[j, row] if family == "assign" else found[row, j]
            assert math.isclose(float(got), p, rel_tol=1e-9, abs_tol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
def test_marginals_are_the_evidence_s_gradient(family: str) -> None:
    scores = draw(N, M).requires_grad_()
    seen = draw(N, M, seed=5) > -1
    seen[:, 0] = True
    found, evidence = marginals(scores, seen, family, 2)
    (slope,) = torch.autograd.grad(evidence[evidence.isfinite()].sum(), scores)
    assert torch.allclose(slope, found * seen, atol=1e-12)


def test_sums_of_marginals() -> None:
    scores, seen = draw(N, M) * 3, torch.ones(N, M, dtype=torch.bool)
    assert torch.allclose(marginals(scores, seen, "one")[0].sum(-1), torch.ones(N).double())
    assert bool((marginals(scores, seen, "one_or_none")[0].sum(-1) < 1).all())
    assert torch.allclose(marginals(scores, seen, "k_subset", 3)[0].sum(-1), torch.full((N,), 3.0).double())
    assert torch.allclose(marginals(scores, seen, "k_subset", M)[0], torch.ones(N, M).double())


def test_edges_that_are_hopeless_are_left_to_none() -> None:
    found, evidence = marginals(torch.full((1, 4), -1e4).double(), torch.ones(1, 4, dtype=torch.bool), "one_or_none")
    assert not found.any()
    assert not evidence.any()


def test_the_attentions_that_it_holds() -> None:
    q, k, v = qkv()
    scores = q @ k.mT / D**0.5
    plain = scores.softmax(-1) @ v
    assert torch.allclose(structural_attention(q, k, v).out, plain)
    # Causal attention and graph attention: a prior that forbids edges.
    graph = torch.tensor([[1, 1, 0, 0, 0], [0, 1, 0, 1, 0], [1, 1, 1, 1, 1]]).bool()
    hidden = scores.masked_fill(~graph, -torch.inf).softmax(-1) @ v
    assert torch.allclose(structural_attention(q, k, v, seen=graph).out, hidden)
    prior = torch.where(graph, 0.0, -torch.inf).double()
    assert torch.allclose(structural_attention(q, k, v, log_prior=prior).out, hidden)
    # ALiBi: a log prior that falls with the distance.
    slope = -0.5 * (torch.arange(N)[:, None] - torch.arange(M)).abs().double()
    assert torch.allclose(structural_attention(q, k, v, log_prior=slope).out, (scores + slope).softmax(-1) @ v)
    # Hard attention; sigmoid attention; softmax plus one.
    hard = F.one_hot(scores.argmax(-1), M).double() @ v
    assert torch.allclose(structural_attention(q, k, v, inference="map").out, hard)
    odds = torch.tensor(-1.5).double()
    assert torch.allclose(
        structural_attention(q, k, v, family="bernoulli", log_prior=odds).out, (scores - 1.5).sigmoid() @ v
    )
    plus = scores.exp() / (1 + scores.exp().sum(-1, keepdim=True))
    assert torch.allclose(structural_attention(q, k, v, family="one_or_none").out, plus @ v)
    # Slot attention: keys choose among queries, which read their weighted mean.
    slots = scores.softmax(-2)
    want = slots / slots.sum(-1, keepdim=True) @ v
    assert torch.allclose(structural_attention(q, k, v, family="assign").out, want)
    # Hopfield retrieval: one update of the query with the keys' mean.
    update = scores.softmax(-1) @ k
    found = structural_attention(q, k, v, inference="em", rounds=1)
    assert torch.allclose(found.queries, update)
    assert torch.allclose(found.out, (update @ k.mT / D**0.5).softmax(-1) @ v)
    # A mixture of Gaussians equals products where the keys are equally long.
    even = F.normalize(k, dim=-1)
    assert torch.allclose(
        structural_attention(q, even, v, potential="gaussian", width=0.7).out, (q @ even.mT / 0.49).softmax(-1) @ v
    )
    # Two hops, and the mean of a pair.
    square = structural_attention(k, k, v, value="multihop", hop=0.5)
    p = (k @ k.mT / D**0.5).softmax(-1)
    assert torch.allclose(square.out, p @ v + 0.5 * p @ (p @ v))
    pair = structural_attention(q, k, v, family="k_subset", subset=2, value="set")
    assert torch.allclose(pair.out, pair.marginals @ v / 2)


def test_a_geometric_prior_without_falling_off_is_uniform() -> None:
    q, k, v = qkv()
    at = (torch.arange(N)[:, None] - torch.arange(M)).abs().double()
    none = at * math.log1p(-1e-12)
    assert torch.allclose(structural_attention(q, k, v, log_prior=none).out, structural_attention(q, k, v).out)


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_have_the_marginals_as_their_mean(family: str) -> None:
    q, k, v = draw(1, 1, N, D), draw(1, 1, M, D, seed=1), draw(1, 1, M, 2, seed=2)
    draws = 4000
    many = (t.expand(draws, -1, -1, -1) for t in (q, k, v))
    exact = structural_attention(q, k, v, family=family).marginals
    sampled = structural_attention(
        *many, family=family, inference="sample", generator=torch.Generator().manual_seed(0)
    ).marginals
    assert bool(((sampled.round() - sampled).abs() < 1e-9).all())
    spread = (exact * (1 - exact) / draws).sqrt()
    assert bool(((sampled.mean(0) - exact[0]).abs() < 5 * spread + 1e-6).all())


def test_samples_pass_the_gradient_of_the_marginals() -> None:
    q, k, v = qkv()
    slopes = []
    for inference in ("marginal", "sample"):
        x = q.clone().requires_grad_()
        found = structural_attention(x, k, v, inference=inference, generator=torch.Generator().manual_seed(0))
        slopes.append(torch.autograd.grad(found.marginals[..., 0].sum(), x)[0])
    assert torch.allclose(*slopes)


def test_retrieval_lowers_the_energy_at_every_round() -> None:
    q, k, v = qkv()
    k = F.normalize(k, dim=-1)
    before = None
    for rounds in range(1, 6):
        found = structural_attention(q, k, v, inference="em", rounds=rounds, scale=3.0)
        energy = found.queries.square().sum(-1) / 2 - found.log_evidence / 3.0
        assert before is None or bool((energy <= before + 1e-12).all())
        before = energy


def test_the_hyper_prior_follows_what_a_query_finds() -> None:
    """A query whose match is near infers a narrow window, one whose match is far a wide one."""
    far = 30
    q = torch.tensor([[[[6.0, 0.0], [0.0, 6.0]]]]).double()
    k = torch.zeros(1, 1, far + 1, 2).double()
    k[0, 0, 1, 0] = k[0, 0, far, 1] = 3.0
    gaps = torch.arange(far + 1).double()[None, None, None]
    found = structural_attention(q, k, k, distances=gaps, beta=(1.0, 8.0), rounds=5)
    plain = structural_attention(q, k, k)
    reach = [(one.marginals * gaps).sum(-1)[0, 0] for one in (found, plain)]
    assert reach[0][0] < reach[1][0]
    assert reach[0][1] > 3 * reach[0][0]


WRONG = [
    ({"family": "two"}, "family must be one of 'one', .*; got 'two'"),
    ({"inference": "guess"}, "inference must be one of"),
    ({"potential": "cosine"}, "potential must be one of 'dot', 'gaussian'; got 'cosine'"),
    ({"width": 0.0}, "width must be greater than 0; got 0.0"),
    ({"rounds": 0}, "rounds must be at least 1; got 0"),
    ({"beta": (0.0, 1.0)}, "beta must be two numbers greater than 0"),
    ({"value": "set"}, "Type family='k_subset' with it"),
    ({"value": "multihop", "family": "assign"}, "Type family='one' with it"),
    ({"value": "multihop"}, "needs every key to be a query; got 3 queries and 5 keys"),
    ({"beta": (1.0, 2.0)}, "beta= and distances= go together"),
    ({"family": "k_subset", "subset": 6}, "needs 6 allowed edges for every query, and one has 5"),
    ({"seen": torch.zeros(N, M, dtype=torch.bool)}, "needs 1 allowed edges for every query, and one has 0"),
]


@pytest.mark.parametrize(("settings", "text"), WRONG, ids=[text for _, text in WRONG])
def test_wrong_settings_say_what_to_type(settings: dict, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        structural_attention(*qkv(), **settings)


def test_a_row_without_edges_is_none_where_it_may_be() -> None:
    q, k, v = qkv()
    found = structural_attention(q, k, v, family="one_or_none", seen=torch.zeros(N, M, dtype=torch.bool))
    assert not found.out.any()
    with pytest.raises(ShapeError, match=r"takes q \[B, H, N, D\]"):
        structural_attention(q, k[..., :2], v)
