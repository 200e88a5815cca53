"""Structural attention: edges that depend on each other against enumeration, and the cases that the paper names."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from regard.ops.structure import structural_attention

N, M, D = 2, 3, 4
PAIRS = [
    ("keys", "bernoulli"),
    ("keys", "assign"),
    ("queries", "one"),
    ("queries", "one_or_none"),
    ("queries", "bernoulli"),
    ("queries", "k_subset"),
]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def qkv() -> tuple[Tensor, Tensor, Tensor]:
    return draw(1, 1, N, D), draw(1, 1, M, D, seed=1), draw(1, 1, M, 2, seed=2)


def allowed(family: str, edges: Tensor) -> bool:
    """Whether a family has this set of edges [N, M]."""
    rows = edges.T if family == "assign" else edges
    counts = {"one": {1}, "assign": {1}, "one_or_none": {0, 1}, "k_subset": {2}}.get(family)
    return counts is None or all(int(row.sum()) in counts for row in rows)


def enumerated(family: str, coupled: str, coupling: float) -> tuple[Tensor, float]:
    """Marginals [N, M] and log evidence of all sets of edges, each pair adding what it is coupled by."""
    q, k, _ = (t[0, 0] for t in qkv())
    total, sums = 0.0, torch.zeros(N, M, dtype=torch.float64)
    for bits in itertools.product((0, 1), repeat=N * M):
        edges = torch.tensor(bits, dtype=torch.float64).view(N, M)
        if not allowed(family, edges):
            continue
        on = [(i, j) for i in range(N) for j in range(M) if edges[i, j]]
        energy = sum(float(q[i] @ k[j]) for i, j in on)
        for (i, j), (n, m) in itertools.combinations(on, 2):
            if coupled == "keys" and i == n:
                energy += coupling * float(k[j] @ k[m])
            if coupled == "queries" and j == m:
                energy += coupling * float(q[i] @ q[n])
        power = math.exp(energy / math.sqrt(D))
        total, sums = total + power, sums + power * edges
    return sums / total, math.log(total)


def field(family: str, coupled: str, coupling: float, rounds: int = 40) -> tuple[Tensor, float]:
    found = structural_attention(
        *qkv(), family=family, inference="mean_field", coupled=coupled, coupling=coupling, rounds=rounds
    )
    return found.marginals[0, 0], float(found.log_evidence.sum())


@pytest.mark.parametrize(("coupled", "family"), PAIRS)
def test_mean_field_is_exact_to_first_order_and_bounds_the_evidence(coupled: str, family: str) -> None:
    alone, _ = enumerated(family, coupled, 0.0)
    errors = []
    for coupling in (0.1, 0.01):
        exact, evidence = enumerated(family, coupled, coupling)
        for rounds in (1, 2, 40):
            p, bound = field(family, coupled, coupling, rounds)
            assert bound <= evidence + 1e-12
        errors.append(float((p - exact).abs().max()))
        assert evidence - bound < coupling**2  # and it is a close one
        assert errors[-1] < 0.1 * float((alone - exact).abs().max()) * max(coupling / 0.01, 1)
    assert errors[1] < errors[0] / 50  # a tenth of the coupling: a hundredth of the error


@pytest.mark.parametrize(("coupled", "family"), PAIRS)
def test_no_coupling_is_the_exact_marginal(coupled: str, family: str) -> None:
    p, evidence = field(family, coupled, 0.0)
    exact = structural_attention(*qkv(), family=family)
    assert torch.allclose(p, exact.marginals[0, 0])
    assert math.isclose(evidence, float(exact.log_evidence.sum()))


def test_edges_to_alike_keys_hold_together() -> None:
    """A key that the query is indifferent to is taken where a key like it is."""
    q = torch.tensor([[[[3.0, 0.0]]]]).double()
    k = torch.tensor([[[[2.0, 1.0], [0.0, 2.0], [0.0, -2.0]]]]).double()
    found = structural_attention(q, k, k, family="bernoulli", inference="mean_field", coupling=1.0, rounds=20)
    p = found.marginals[0, 0, 0]
    assert p[1] > 0.7
    assert p[2] < 0.1
    apart = structural_attention(q, k, k, family="bernoulli").marginals[0, 0, 0]
    assert torch.allclose(apart[1:], torch.tensor([0.5, 0.5]).double())


def test_softmax_plus_one_is_softmax_with_the_evidence_as_a_gate() -> None:
    q, k, v = qkv()
    one = structural_attention(q, k, v)
    gated = torch.sigmoid(one.log_evidence)[..., None] * one.out
    assert torch.allclose(structural_attention(q, k, v, family="one_or_none").out, gated)


def test_keys_assigned_to_gaussians_find_their_clusters() -> None:
    """Three clusters: rounds of em move the queries to their means, one step of softmax does not."""
    centres = torch.tensor([[0.0, 4.0], [4.0, -2.0], [-4.0, -2.0]]).double()
    truth = torch.arange(60) % 3
    points = centres[truth] + 0.5 * draw(60, 2)
    starts = torch.tensor([[0.5, 0.5], [0.5, -0.5], [-0.5, -0.5]]).double()
    given = (starts[None, None], points[None, None], points[None, None])
    found = structural_attention(*given, family="assign", potential="gaussian", inference="em", rounds=20)
    assert torch.equal(found.marginals[0, 0].argmax(0), truth)
    assert float((found.queries[0, 0] - centres).norm(dim=-1).max()) < 0.5
    once = structural_attention(*given, potential="gaussian")
    off = (found.queries[0, 0] - centres).norm(dim=-1).max()
    assert float((once.out[0, 0] - centres).norm(dim=-1).min()) > 3 * float(off)


def test_clustering_by_rounds_never_lowers_the_evidence() -> None:
    points = draw(1, 1, 30, 2) * 2
    starts = draw(1, 1, 3, 2, seed=4)
    before = -math.inf
    for rounds in range(1, 8):
        found = structural_attention(
            starts, points, points, family="assign", potential="gaussian", inference="em", rounds=rounds
        )
        after = float(found.log_evidence.sum())
        assert after >= before - 1e-12
        before = after


@pytest.mark.parametrize("family", ["one", "one_or_none", "bernoulli", "k_subset", "assign"])
def test_keys_have_no_order_of_their_own(family: str) -> None:
    q, k, v = qkv()
    order = torch.tensor([2, 0, 1])
    out = structural_attention(q, k, v, family=family)
    moved = structural_attention(q, k[:, :, order], v[:, :, order], family=family)
    assert torch.allclose(moved.out, out.out)
    assert torch.allclose(moved.marginals, out.marginals[..., order])


def test_wrong_couplings_say_what_to_type() -> None:
    for family, coupled, other in (("one", "keys", "queries"), ("assign", "queries", "keys")):
        with pytest.raises(ValueError, match=f"family='{family}' ties edges.*Type coupled='{other}'"):
            structural_attention(*qkv(), family=family, inference="mean_field", coupled=coupled)
    with pytest.raises(ValueError, match="coupled must be one of 'keys', 'queries'; got 'heads'"):
        structural_attention(*qkv(), family="bernoulli", inference="mean_field", coupled="heads")
