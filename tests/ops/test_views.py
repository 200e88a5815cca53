"""Views: pairs under a mask are scored with another query and key, such as ones turned to other positions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from regard import masks
from regard.edits import ALiBi, SoftmaxOffByOne
from regard.ops import View, attend
from tests import oracle
from tests.ops.cases import ENGINES, SHAPES, Shape, assert_equals, bound, seeded, tensors

SHAPE_NAMES = ["square", "few_queries", "one_query", "many_tiles"]
FAR, EARLY = ~masks.window(20), masks.sinks(3)
TABLE = torch.rand(50, 50, generator=seeded(9)) < 0.6
WHERE = {
    "causal": (masks.causal(), lambda i, j: j <= i),
    "none": (None, lambda i, j: (i == i) & (j == j)),
    "held_in_a_tensor": (masks.blocks(TABLE, 8), lambda i, j: TABLE.numpy()[i // 8, j // 8]),
    "outside_the_view": (masks.window(8), lambda i, j: (i - 8 < j) & (j <= i)),
}


def turned(x: Tensor, by: int) -> Tensor:
    """Rotate pairs of features by an angle that grows with `by`: what changing a rotary position does."""
    angle = by * 0.1 * torch.arange(1, x.shape[-1] // 2 + 1, dtype=x.dtype)
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack([a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()], -1).flatten(-2)


def _places(s: Shape) -> tuple[np.ndarray, np.ndarray]:
    return np.arange(s.M - s.N, s.M)[:, None], np.arange(s.M)


@pytest.mark.parametrize("mask", WHERE)
@pytest.mark.parametrize("shape", SHAPE_NAMES)
@pytest.mark.parametrize("engine", ENGINES)
def test_two_views_with_their_own_queries_and_keys(engine, shape, mask):
    s = SHAPES[shape]
    q, k, v = tensors(s)
    where, formula = WHERE[mask]
    i, j = _places(s)
    far, early = (i - j >= 20) | (j > i), (j < 3) & (i == i)
    views = [View(FAR & ~EARLY, turned(q, 7)), View(EARLY, turned(q, 3), turned(k, -4))]
    scored = [(far & ~early, turned(q, 7), k), (early, turned(q, 3), turned(k, -4))]
    expected = oracle.attention(q, k, v, formula(i, j) & (i >= 0), views=scored)
    atol = bound(q, k, v, torch.float64)
    found = attend(q, k, v, where=where, views=views, engine=ENGINES[engine])
    assert_equals(found, expected.out, atol)
    state = attend(q, k, v, where=where, views=views, state=True, engine=ENGINES[engine])
    assert_equals(state.out, expected.out, atol)
    assert_equals(state.lse, expected.lse, atol)


@pytest.mark.parametrize("engine", ENGINES)
def test_views_take_edits_and_normalisers_like_everything_else(engine):
    s = SHAPES["many_tiles"]
    q, k, v = tensors(s)
    i, j = _places(s)
    edit = ALiBi(heads=s.H)
    curve = edit.slopes.double().numpy()[:, None, None]
    expected = oracle.attention(
        q, k, v, j <= i,
        views=[(i - j >= 20, turned(q, 7), k)],
        edits=[lambda scores: scores - curve * np.abs(i - j)],
        normal=oracle.softmax([0.0] * s.H),
    )  # fmt: skip
    found = attend(
        q, k, v, where=masks.causal(), views=[View(FAR, turned(q, 7))], edits=[edit], normaliser=SoftmaxOffByOne(),
        engine=ENGINES[engine],
    )  # fmt: skip
    assert_equals(found, expected.out, bound(q, k, v, torch.float64, more=150.0))


@pytest.mark.parametrize("engine", ENGINES)
def test_where_views_overlap_the_first_counts(engine):
    s = SHAPES["square"]
    q, k, v = tensors(s)
    i, j = _places(s)
    views = [View(FAR, turned(q, 7)), View(masks.causal(), turned(q, 3))]
    scored = [(j <= i, turned(q, 3), k), (i - j >= 20, turned(q, 7), k)]
    found = attend(q, k, v, where=masks.causal(), views=views, engine=ENGINES[engine])
    assert_equals(found, oracle.attention(q, k, v, j <= i, views=scored).out, bound(q, k, v, torch.float64))


@pytest.mark.parametrize("engine", ENGINES)
def test_a_view_obeys_explicit_positions(engine):
    s = Shape(2, 4, 2, 30, 90, 8, 8)
    q, k, v = tensors(s)
    q_positions = torch.arange(s.N) + 100
    k_positions = torch.stack([torch.randperm(130, generator=seeded(n))[: s.M] - 1 for n in range(s.B)])
    i = oracle.places(q_positions, s.N, 0, s.B, s.H)
    j = oracle.places(k_positions, s.M, 0, s.B, s.H)
    seen = oracle.visible(lambda b, h, i, j: j <= i, i, j)
    far = (i[..., None] - j[..., None, :] >= 20) | (j[..., None, :] > i[..., None])
    expected = oracle.attention(q, k, v, seen, views=[(far, turned(q, 7), k)])
    found = attend(
        q, k, v, where=masks.causal(), views=[View(FAR, turned(q, 7))], q_positions=q_positions,
        k_positions=k_positions, engine=ENGINES[engine],
    )  # fmt: skip
    assert_equals(found, expected.out, bound(q, k, v, torch.float64))


@pytest.mark.parametrize("state", [False, True])
@pytest.mark.parametrize("engine", ["reference", "rows", "rows_7", "rows_16x30", "tiles", "auto"])
def test_the_gradient_reaches_a_views_own_tensors_alone(engine, state):
    s = Shape(1, 2, 1, 6, 8, 4, 4)
    q, k, v = tensors(s)
    direction = torch.randn(1, 2, 6, 4, generator=seeded(1), dtype=torch.float64)
    i, j = _places(s)
    far = i - j >= 3

    def total(arrays) -> float:
        expected = oracle.attention(q, k, v, j <= i, views=[(far, arrays[0], arrays[1])])
        return float((expected.out * direction.numpy()).sum() + (expected.lse.sum() if state else 0.0))

    q_far, k_far = (turned(q, 7).requires_grad_(), turned(k, 2).requires_grad_())
    found = attend(
        q, k, v, where=masks.causal(), views=[View(~masks.window(3), q_far, k_far)], state=state,
        engine=ENGINES.get(engine, engine),
    )  # fmt: skip
    out, lse = (found.out, found.lse.sum()) if state else (found, 0.0)
    ((out * direction).sum() + lse).backward()
    # Central differences with a step of 1e-5 err by about 1e-10 times third derivatives, here below 100.
    for tensor, expected in zip((q_far, k_far), oracle.slope(total, [q_far, k_far]), strict=True):
        assert tensor.grad is not None
        assert_equals(tensor.grad, expected, 1e-8)
