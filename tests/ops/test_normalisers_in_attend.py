"""Sink logits, softmax off by one and sigmoid inside attend."""

from __future__ import annotations

import math

import pytest
import torch

from regard import masks
from regard.edits import Sigmoid, SoftmaxOffByOne, SoftmaxWithSinks
from regard.errors import EngineRefused
from regard.ops import attend
from tests import oracle
from tests.ops.cases import ENGINES, SHAPES, assert_equals, bound, case, tensors

SINKS = [0.5, -math.inf, 3.0, -2.0]


@pytest.mark.parametrize("shape", ["square", "few_queries", "one_query", "more_queries_than_keys", "many_tiles"])
@pytest.mark.parametrize("mask", ["none", "causal", "window_and_sinks", "blocks", "nothing"])
@pytest.mark.parametrize("engine", ENGINES)
def test_sinks_join_the_denominator(engine, mask, shape):
    c, H = case(mask, shape), SHAPES[shape].H
    logits = torch.tensor(SINKS[:H], dtype=torch.float64)
    atol = bound(c.q, c.k, c.v, torch.float64, more=3.0)
    expected = oracle.attention(c.q, c.k, c.v, c.seen, normal=oracle.softmax(SINKS[:H])).out
    short = attend(c.q, c.k, c.v, where=c.where, sinks=logits, engine=ENGINES[engine])
    assert_equals(short, expected, atol)
    long = attend(c.q, c.k, c.v, where=c.where, normaliser=SoftmaxWithSinks(logits), engine=ENGINES[engine])
    assert torch.equal(short, long)
    off = attend(c.q, c.k, c.v, where=c.where, normaliser=SoftmaxOffByOne(), engine=ENGINES[engine])
    assert_equals(off, oracle.attention(c.q, c.k, c.v, c.seen, normal=oracle.softmax([0.0] * H)).out, atol)


@pytest.mark.parametrize("mask", ["none", "causal", "window_and_sinks", "nothing"])
@pytest.mark.parametrize("engine", ENGINES)
def test_sigmoid_where_complete_rows_are_had(engine, mask):
    c = case(mask, "many_tiles")
    if engine in ("tiles", "sdpa", "rows_16x30"):
        reason = (
            "complete rows are needed" if engine == "rows_16x30" else "Sigmoid is not a function of the log-sum-exp"
        )
        with pytest.raises(EngineRefused, match=reason):
            attend(c.q, c.k, c.v, where=c.where, normaliser=Sigmoid(-2.0), engine=ENGINES[engine])
        return
    found = attend(c.q, c.k, c.v, where=c.where, normaliser=Sigmoid(-2.0), engine=ENGINES[engine])
    # A sum of up to 400 weights that need not add up to one.
    atol = 400 * bound(c.q, c.k, c.v, torch.float64, more=2.0)
    assert_equals(found, oracle.attention(c.q, c.k, c.v, c.seen, normal=oracle.sigmoid(-2.0)).out, atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("engine", ENGINES)
def test_float32_sinks_leave_the_dtype_of_the_values(engine, dtype):
    q, k, v = tensors(SHAPES["square"], dtype)
    out = attend(q, k, v, where=masks.causal(), sinks=torch.tensor(SINKS[:4]), engine=ENGINES[engine])
    assert out.dtype == dtype


@pytest.mark.parametrize("engine", ["reference", "rows", "rows_7", "rows_16x30", "tiles"])
def test_the_gradient_reaches_sink_logits(engine):
    c = case("window_and_sinks", "many_tiles")
    direction = torch.randn(c.q.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def total(arrays) -> float:
        normal = oracle.softmax(list(arrays[0]))
        return float((oracle.attention(c.q, c.k, c.v, c.seen, normal=normal).out * direction.numpy()).sum())

    logits = torch.tensor([0.5, -1.0, 3.0, -2.0], dtype=torch.float64, requires_grad=True)
    (attend(c.q, c.k, c.v, where=c.where, sinks=logits, engine=ENGINES[engine]) * direction).sum().backward()
    assert logits.grad is not None
    (expected,) = oracle.slope(total, [logits])
    # Central differences with step h err by h^2 and by u / h times the sum of 2080 terms.
    assert_equals(logits.grad, expected, 1e-6)


def test_sinks_and_a_normaliser_are_not_given_together():
    q, k, v = tensors(SHAPES["single"])
    with pytest.raises(ValueError, match="sinks= is short for normaliser=SoftmaxWithSinks"):
        attend(q, k, v, sinks=torch.zeros(1), normaliser=SoftmaxOffByOne())
