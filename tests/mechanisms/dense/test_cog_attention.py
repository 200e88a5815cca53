"""Cog attention beyond its spec: its signs, its tiles, and what it has in common with softmax."""

import dataclasses

import pytest
import torch
from torch import Tensor

import regard
from regard.edits import ALiBi
from regard.errors import Unsupported
from regard.mechanisms import Call
from regard.mechanisms.dense import CogAttention
from regard.testing import checks, run, subjects
from regard.testing.checks import Check


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mixed(q: Tensor, k: Tensor, v: Tensor, *, block: int = 128, **call: object) -> Tensor:
    blank = q.new_zeros(q.shape[0], k.shape[2], 1)
    return CogAttention(block=block)(q, k, v, Call(tokens=blank[:, : q.shape[2]], memory=blank, **call))  # type: ignore[arg-type]


def softmax(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)


def weights(q: Tensor, k: Tensor, **call: object) -> Tensor:
    M = k.shape[2]
    return mixed(q, k, torch.eye(M, dtype=q.dtype).expand(*k.shape[:2], M, M), **call)  # type: ignore[arg-type]


@pytest.mark.parametrize("causal", [True, False])
def test_scores_of_one_sign_give_softmax_and_minus_softmax(causal: bool):
    q, k, v = draw(2, 3, 6, 4).abs(), draw(2, 3, 6, 4, seed=1).abs(), draw(2, 3, 6, 4, seed=2)
    torch.testing.assert_close(mixed(q, k, v, causal=causal), softmax(q, k, v, causal))
    torch.testing.assert_close(mixed(-q, k, v, causal=causal), -softmax(q, k, v, causal))


def test_it_is_odd_in_queries_and_in_keys_and_linear_in_values():
    q, k, v, w = (draw(1, 2, 5, 4, seed=seed) for seed in range(4))
    out = mixed(q, k, v)
    torch.testing.assert_close(mixed(-q, k, v), -out)
    torch.testing.assert_close(mixed(q, -k, v), -out)
    torch.testing.assert_close(mixed(q, k, 2 * v - 3 * w), 2 * out - 3 * mixed(q, k, w))


def test_sizes_of_weights_sum_to_one_and_signs_are_the_scores():
    q, k = draw(2, 2, 6, 4), draw(2, 2, 6, 4, seed=1)
    for causal in (True, False):
        found = weights(q, k, causal=causal)
        torch.testing.assert_close(found.abs().sum(-1), torch.ones(2, 2, 6, dtype=q.dtype))
        scores = torch.einsum("bhnd,bhmd->bhnm", q, k)
        assert torch.equal(found.sign(), scores.tril().sign() if causal else scores.sign())
    assert (weights(q, k) < 0).any()
    v = draw(2, 2, 6, 3, seed=2)
    assert (mixed(q, k, v).norm(dim=-1) <= v.norm(dim=-1).amax(-1, keepdim=True)).all()


def test_keys_with_scores_of_one_size_are_averaged_with_their_signs_and_a_score_of_zero_counts_for_nothing():
    q = torch.tensor([2.0, 0.0]).view(1, 1, 1, 2)
    k = torch.tensor([[1.0, 5], [-1, 5], [-1, 0]]).view(1, 1, 3, 2)
    torch.testing.assert_close(weights(q, k).flatten(), torch.tensor([1.0, -1.0, -1.0]) / 3)
    assert weights(q, torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)).flatten().tolist() == [0.0]
    assert weights(q, -q).flatten().tolist() == [-1.0]


def test_gradients_are_those_of_the_formula_away_from_zero():
    scores = draw(1, 1, 1, 5).requires_grad_()
    found = weights(2.0 * torch.eye(4, dtype=torch.float64)[None, None, :1], torch.nn.functional.pad(scores.mT, (0, 3)))
    sizes, signs = scores.detach().abs().softmax(-1).flatten(), scores.detach().sign().flatten()
    want = torch.diag(sizes) - torch.outer(sizes * signs, sizes * signs)
    for j in range(5):
        (slope,) = torch.autograd.grad(found[0, 0, 0, j], scores, retain_graph=True)
        torch.testing.assert_close(slope.flatten(), want[j])


@pytest.mark.parametrize("block", [1, 4, 7])
@pytest.mark.parametrize("causal", [True, False])
def test_tiles_give_what_one_tile_gives_and_so_do_their_gradients(block: int, causal: bool):
    q, k, v = draw(2, 4, 13, 4) * 3, draw(2, 2, 13, 4, seed=1) * 3, draw(2, 2, 13, 5, seed=2)
    places = torch.arange(13).expand(2, -1).clone()
    places[0, :6] = -1
    for at in (None, places):
        given = [x.clone().requires_grad_() for x in (q, k, v)]
        found = [mixed(*given, block=size, causal=causal, q_positions=at, k_positions=at) for size in (block, 64)]
        torch.testing.assert_close(*found)
        slopes = [torch.autograd.grad((out * out.detach()).sum(), given) for out in found]
        torch.testing.assert_close(*slopes)


def test_no_more_than_a_tile_of_scores_is_held():
    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        most = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor):
                self.most = max(self.most, out.numel())
            return out

    q = draw(1, 1, 256, 2)
    with Watch() as watch, torch.no_grad():
        mixed(q, q, q, block=16, causal=True)
    assert watch.most <= 256 * 4


# Not a variant of the spec, since counting the work of tiles as small as this takes minutes.
TILED = dataclasses.replace(subjects("cog_attention")[0], settings={"block": 5})


@pytest.mark.parametrize("check", [c for c in checks(TILED) if not c.name.startswith("cost")], ids=lambda c: c.name)
def test_the_claims_hold_in_tiles_too(check: Check):
    outcome = run(TILED, check)
    assert not outcome.problem, outcome.problem


def test_what_it_does_not_take_is_refused():
    with pytest.raises(ValueError, match=r"CogAttention\.block must be at least 1; got 0"):
        regard.create("cog_attention", dim=8, heads=2, block=0)
    q = draw(1, 2, 3, 4)
    with pytest.raises(Unsupported, match=r"CogAttention has no scores to edit.*ALiBi.*position='rope'"):
        mixed(q, q, q, edits=(ALiBi(heads=2),))
