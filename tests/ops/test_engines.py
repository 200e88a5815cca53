"""Every engine against the oracle: masks, shapes and dtypes, with default positions."""

from __future__ import annotations

import pytest
import torch

from regard.ops import State, attend
from tests import oracle
from tests.ops.cases import ENGINES, MASKS, SHAPES, assert_equals, bound, case


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("engine", ENGINES)
def test_float64_equals_the_formula(engine, mask, shape):
    c = case(mask, shape)
    found = attend(c.q, c.k, c.v, where=c.where, engine=ENGINES[engine])
    assert found.dtype == torch.float64
    assert_equals(found, c.answer.out, bound(c.q, c.k, c.v, torch.float64))


@pytest.mark.parametrize("shape", ["square", "one_query", "more_queries_than_keys", "many_tiles"])
@pytest.mark.parametrize("mask", ["none", "causal", "window_and_sinks", "per_head", "nothing"])
@pytest.mark.parametrize("engine", ENGINES)
def test_float32_equals_the_formula(engine, mask, shape):
    c = case(mask, shape, torch.float32)
    found = attend(c.q, c.k, c.v, where=c.where, engine=ENGINES[engine])
    assert found.dtype == torch.float32
    assert_equals(found, c.answer.out, bound(c.q, c.k, c.v, torch.float32))


@pytest.mark.parametrize("shape", ["square", "few_queries", "one_query", "more_queries_than_keys", "many_tiles"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_state_has_the_log_sum_exp(engine, mask, shape):
    c = case(mask, shape)
    state = attend(c.q, c.k, c.v, where=c.where, state=True, engine=ENGINES[engine])
    assert isinstance(state, State)
    atol = bound(c.q, c.k, c.v, torch.float64)
    assert_equals(state.out, c.answer.out, atol)
    empty = ~c.seen.any(-1)
    assert (state.lse[torch.from_numpy(empty)] == -torch.inf).all()
    assert_equals(state.lse[torch.from_numpy(~empty)], c.answer.lse[~empty], atol)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_log_sum_exp_is_float32_for_bfloat16(engine):
    c = case("causal", "square", torch.bfloat16)
    state = attend(c.q, c.k, c.v, where=c.where, state=True, engine=ENGINES[engine])
    assert (state.out.dtype, state.lse.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_scale_is_the_one_given(engine):
    c = case("causal", "square")
    found = attend(c.q, c.k, c.v, where=c.where, scale=0.7, engine=ENGINES[engine])
    expected = oracle.attention(c.q, c.k, c.v, c.seen, scale=0.7).out
    assert_equals(found, expected, bound(c.q, c.k, c.v, torch.float64, 0.7))
