"""p-RoPE: which pairs turn."""

from __future__ import annotations

import math

import pytest
import torch

from regard.errors import RegardError
from regard.layers import create
from regard.mechanisms.positions import PRoPE, RoPE

D = 16


def steps(**settings: object) -> torch.Tensor:
    return PRoPE(**settings).steps(D, torch.zeros(1, dtype=torch.float64))  # type: ignore[arg-type]


def usual(width: int = D) -> torch.Tensor:
    return torch.tensor([10000.0 ** (-2 * m / width) for m in range(width // 2)], dtype=torch.float64)


def test_the_fastest_pairs_turn_at_their_own_step():
    assert torch.allclose(steps(p=0.5), torch.cat([usual()[:4], torch.zeros(4, dtype=torch.float64)]))
    # 0.29 of 100 pairs is 29, though the product in floating point is a little less.
    assert int((PRoPE(p=0.29).steps(200, torch.zeros(1)) > 0).sum()) == 29
    assert int((steps(p=0.99) > 0).sum()) == 7


def test_controls_turn_the_slowest_pairs_or_spread_all_frequencies():
    none = torch.zeros(4, dtype=torch.float64)
    assert torch.allclose(steps(p=0.5, control="reversed"), torch.cat([none, usual()[4:]]))
    assert torch.allclose(steps(p=0.5, control="partial"), torch.cat([usual(8), none]))
    assert torch.equal(steps(p=0.0, control="partial"), torch.zeros(8, dtype=torch.float64))


@pytest.mark.parametrize("interleaved", [False, True])
def test_one_is_rope_and_zero_is_nothing_to_the_last_bit(interleaved):
    x, at = torch.randn(2, 3, 7, D), torch.arange(7)[None]
    assert torch.equal(PRoPE(p=1.0, interleaved=interleaved).turn(x, at), RoPE(interleaved=interleaved).turn(x, at))
    assert torch.equal(PRoPE(p=0.0, interleaved=interleaved).turn(x, at), x)


def test_what_does_not_turn_scores_alike_at_every_distance():
    turning = torch.zeros(D, dtype=torch.bool)
    turning[:4] = turning[8:12] = True
    q, k = torch.randn(2, 1, 1, 1, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for kept, other in ((turning, RoPE()), (~turning, None)):
        for far in (0, 1, 50, 4000):
            a, b = (torch.where(kept, x, 0.0) for x in (q, k))
            got = (PRoPE(p=0.5).turn(a, torch.tensor([[far]])) * b).sum()
            want = (a * b).sum() if other is None else (other.turn(a, torch.tensor([[far]])) * b).sum()
            assert torch.allclose(got, want, rtol=1e-12)


def test_one_fast_pair_attends_to_the_token_before_and_none_can_not():
    N, width, last = 4096, 16, 64
    long = 3e5  # 710 tokens are 113 turns but for 6e-5 of one: only long vectors tell them from none
    keys = torch.zeros(N, width, dtype=torch.float64)
    keys[:, 0] = long  # the fastest pair's first feature, for every token: all are the same
    query = torch.zeros_like(keys)
    back = torch.tensor(-1.0, dtype=torch.float64)  # the query points one step back
    query[:, 0], query[:, width // 2] = long * back.cos(), long * back.sin()
    at = torch.arange(N)[None]
    for p, found in ((0.25, True), (0.0, False)):
        rope = PRoPE(p=p)
        q, k = (rope.turn(x[None, None], at)[0, 0] for x in (query, keys))
        scores = q[-last:] @ k.T / width**0.5
        scores = scores.masked_fill(torch.ones(N, N).triu(1).bool()[-last:], -torch.inf)
        before = scores.softmax(-1).diagonal(N - last - 1)
        assert before.shape == (last,)
        assert bool((before > 0.99).all()) == found
        if not found:  # repeated tokens have the same score at every distance
            assert torch.allclose(before, 1 / torch.arange(N - last + 1.0, N + 1, dtype=torch.float64))


def test_a_key_may_score_highest_at_any_distance():
    q = torch.randn(1, 1, 1, D, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rope, zero = PRoPE(p=1.0), torch.zeros(1, 1, dtype=torch.long)
    for best in (0, 3, 77, 1500):
        k = rope.turn(q, torch.full((1, 1), best))  # such a key meets a query `best` tokens later
        far = torch.arange(2000)[None]
        scores = (rope.turn(q.expand(1, 1, 2000, D), far) * k).sum(-1)
        assert int(scores.argmax()) == best
        assert torch.allclose(scores.max(), q.square().sum())
        assert torch.equal(rope.turn(q, zero), q)


@pytest.mark.parametrize("base", [10000.0, 500000.0])
def test_a_channel_of_meaning_changes_its_sign_far_away_only_where_its_pair_turns(base):
    slow = torch.zeros(1, 1, 1, D, dtype=torch.float64)
    slow[..., D // 2 - 1] = 1.0  # the slowest pair
    half_a_turn = round(math.pi * base ** ((D - 2) / D))  # further off for a larger base
    for far, p, want in ((half_a_turn, 1.0, -1.0), (half_a_turn, 0.75, 1.0), (half_a_turn // 2, 1.0, 0.0)):
        score = (PRoPE(p=p, base=base).turn(slow, torch.tensor([[far]])) * slow).sum()
        assert float(score) == pytest.approx(want, abs=1e-3)


@pytest.mark.parametrize(
    "settings", [{}, {"control": "reversed"}, {"control": "partial"}, {"interleaved": True}], ids=str
)
def test_scores_know_the_distance_alone_and_lengths_are_kept(settings):
    rope = PRoPE(p=0.5, **settings)
    q, k = torch.randn(2, 1, 2, 1, D, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def score(i: int, j: int) -> torch.Tensor:
        return (rope.turn(q, torch.tensor([[i]])) * rope.turn(k, torch.tensor([[j]]))).sum(-1)

    assert torch.allclose(score(9, 4), score(309, 304))
    assert not torch.allclose(score(9, 4), score(9, 2), rtol=1e-3)
    assert torch.allclose(rope.turn(q, torch.tensor([[123]])).norm(dim=-1), q.norm(dim=-1))


def test_random_scores_do_not_decay():
    q, k = torch.randn(2, 1, 1, 20000, D, generator=torch.Generator().manual_seed(3))
    rope = PRoPE(p=1.0)
    for far in (1, 30, 1000):
        found = (rope.turn(q, torch.full((1, 20000), far)) * k).sum(-1)
        # Each score has variance D; the mean of 20000 lies within 4 standard errors of none.
        assert abs(float(found.mean())) < 4 * (D / 20000) ** 0.5
        assert 0.9 * D < float(found.var()) < 1.1 * D


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"p": 1.2}, "from 0 to 1; got 1.2"), ({"p": -0.1}, "from 0 to 1"), ({"control": "x"}, "one of")],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        PRoPE(**settings)


def test_other_scalings_and_odd_heads_are_refused():
    with pytest.raises(RegardError, match="p_rope has no setting 'scaling'"):
        create("p_rope", dim=16, heads=2, scaling="yarn")
    with pytest.raises(RegardError, match="even width; got 5"):
        create("p_rope", dim=10, heads=2)
