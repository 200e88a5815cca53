"""States form a commutative monoid under merge, and splitting the keys anywhere gives the whole back."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regard import masks
from regard.errors import ShapeError
from regard.ops import State, attend, merge
from tests import oracle
from tests.ops.cases import ENGINES, SHAPES, assert_equals, bound, case, seeded, tensors

B, H, N, E = 2, 3, 4, 5
LSE = st.one_of(st.just(-torch.inf), st.floats(-1e4, 1e4), st.floats(-1, 1))


@st.composite
def states(draw) -> State:
    """Any log-sum-exps, -inf included, where the output is zero."""
    lse = torch.tensor(draw(st.lists(LSE, min_size=B * H * N, max_size=B * H * N)), dtype=torch.float64)
    lse = lse.view(B, H, N)
    out = torch.randn(B, H, N, E, generator=seeded(draw(st.integers(0, 99))), dtype=torch.float64)
    return State(out.masked_fill((lse == -torch.inf).unsqueeze(-1), 0.0), lse)


def assert_same(a: State, b: State) -> None:
    assert not a.out.isnan().any()
    assert not a.lse.isnan().any()
    # Outputs are averages of numbers below 6, after a handful of roundings; a log-sum-exp of 1e4 has an ulp of 2e-12,
    # and its error is also the relative error of the weights.
    torch.testing.assert_close(a.lse, b.lse, rtol=1e-15, atol=1e-14)
    torch.testing.assert_close(a.out, b.out, rtol=0, atol=1e-10)


EMPTY = State(torch.zeros(B, H, N, E, dtype=torch.float64), torch.full((B, H, N), -torch.inf, dtype=torch.float64))


@settings(max_examples=60, deadline=None)
@given(states(), states(), states())
def test_merge_is_associative_commutative_and_has_a_unit(a, b, c):
    assert_same(merge(a, b), merge(b, a))
    assert_same(merge(merge(a, b), c), merge(a, merge(b, c)))
    for one in (merge(a, EMPTY), merge(EMPTY, a)):
        assert torch.equal(one.out, a.out)
        assert torch.equal(one.lse, a.lse)


@settings(max_examples=30, deadline=None)
@given(states(), states())
def test_merge_weighs_by_the_exponential_of_the_log_sum_exp(a, b):
    found = merge(a, b)
    for b_, h, n in torch.cartesian_prod(*(torch.arange(s) for s in (B, H, N))).tolist():
        sums = [s.lse[b_, h, n].item() for s in (a, b)]
        top = max(sums)
        if top == -torch.inf:
            assert found.lse[b_, h, n] == -torch.inf
            assert (found.out[b_, h, n] == 0).all()
            continue
        shares = torch.tensor([s - top for s in sums], dtype=torch.float64).exp()
        wanted = (shares[0] * a.out[b_, h, n] + shares[1] * b.out[b_, h, n]) / shares.sum()
        torch.testing.assert_close(found.out[b_, h, n], wanted, rtol=0, atol=1e-10)
        assert abs(found.lse[b_, h, n].item() - (top + shares.sum().log().item())) <= 1e-15 * abs(top) + 1e-14


def test_two_empty_sides_stay_empty():
    both = merge(EMPTY, EMPTY)
    assert (both.lse == -torch.inf).all()
    assert (both.out == 0).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 70), max_size=4), st.sampled_from(list(ENGINES)), st.sampled_from(["causal", "future"]))
def test_keys_split_anywhere_merge_to_the_whole(cuts, engine, mask):
    c, s = case(mask, "square"), SHAPES["square"]
    edges = [0, *sorted(cuts), s.M]
    positions = torch.arange(s.M)
    parts = [
        attend(
            c.q, c.k[:, :, a:z], c.v[:, :, a:z], where=c.where, q_positions=positions, k_positions=positions[a:z],
            state=True, engine=ENGINES[engine] if z > a else "auto",
        )
        for a, z in itertools.pairwise(edges)
    ]  # fmt: skip
    whole = functools.reduce(merge, parts)
    atol = bound(c.q, c.k, c.v, torch.float64)
    assert_equals(whole.out, c.answer.out, atol)
    seen = torch.from_numpy(c.seen.any(-1))
    assert (whole.lse[~seen] == -torch.inf).all()
    assert_equals(whole.lse[seen], c.answer.lse[seen.numpy()], atol)


@pytest.mark.parametrize("engine", ENGINES)
def test_keys_split_by_masks_merge_to_the_whole(engine):
    c = case("window_and_sinks", "many_tiles")
    window = masks.causal() & masks.window(20)
    parts = [window, masks.causal() & masks.sinks(3) & ~window, ~masks.everything]
    whole = functools.reduce(
        merge, (attend(c.q, c.k, c.v, where=part, state=True, engine=ENGINES[engine]) for part in parts)
    )
    assert_equals(whole.out, c.answer.out, bound(c.q, c.k, c.v, torch.float64))


def test_gradients_pass_through_merge():
    def joined(*t: Tensor) -> tuple[Tensor, Tensor]:
        found = merge(State(t[0], t[1]), State(t[2], t[3]))
        return found.out, found.lse

    make = seeded(1)
    leaves = [
        torch.randn(shape, generator=make, dtype=torch.float64, requires_grad=True)
        for shape in ((1, 2, 3, 2), (1, 2, 3), (1, 2, 3, 2), (1, 2, 3))
    ]
    assert torch.autograd.gradcheck(joined, leaves)


def test_two_empty_sides_have_a_gradient_of_zero():
    leaves = [t.clone().requires_grad_() for t in (EMPTY.out, EMPTY.lse, EMPTY.out, EMPTY.lse)]
    found = merge(State(leaves[0], leaves[1]), State(leaves[2], leaves[3]))
    total = found.out.sum() + torch.where(found.lse == -torch.inf, 0.0, found.lse).sum()
    for gradient in torch.autograd.grad(total, leaves):
        assert (gradient == 0).all()


def test_a_merge_of_bfloat16_outputs_is_weighed_in_float32():
    q, k, v = tensors(SHAPES["square"], torch.bfloat16)
    places = torch.arange(70)
    halves = [
        attend(q, k[:, :, a:z], v[:, :, a:z], q_positions=places, state=True, engine="rows")
        for a, z in ((0, 33), (33, 70))
    ]
    found = merge(*halves)
    assert (found.out.dtype, found.lse.dtype) == (torch.bfloat16, torch.float32)
    everything = torch.ones(1, 1, 1, 1, dtype=torch.bool).numpy()
    expected = oracle.attention(q, k, v, everything).out
    # The halves and the result are rounded once each to bfloat16: two roundings of 2^-9 of the largest value.
    largest = max(float(half.out.abs().max()) for half in halves)
    assert_equals(found.out, expected, 2 * 2**-9 * largest * 1.01)


def test_states_that_differ_in_shape_are_named():
    other = State(EMPTY.out[:, :2], EMPTY.lse[:, :2])
    with pytest.raises(ShapeError, match=r"states of one shape; got out \[2, 3, 4, 5\] and \[2, 2, 4, 5\], lse"):
        merge(EMPTY, other)
