"""Edits of scores inside attend against plain formulas, alone and in order, by position and by slot."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from regard import masks
from regard.edits import ALiBi, Bias, Edit, Emphasis, Softcap, Temperature
from regard.errors import EngineRefused
from regard.ops import attend
from tests import oracle
from tests.ops.cases import ENGINES, SHAPES, Shape, assert_equals, bound, seeded, tensors

S = Shape(2, 4, 2, 30, 150, 8, 8)
SLOPES = torch.tensor([0.3, 0.1, 0.05, 0.7], dtype=torch.float64)
HEATS = torch.tensor([0.5, 1.0, 1.7, 3.0], dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
FULL = torch.randn(S.B, S.H, S.N, S.M, generator=seeded(1), dtype=torch.float64)
BY_KEY = torch.randn(S.H, 1, S.M, generator=seeded(2), dtype=torch.float64)
BY_PAIR = torch.randn(S.N, S.M, generator=seeded(3), dtype=torch.float64)

# The edit, its formula on scores for position arrays i [B, H, N, 1] and j [B, H, 1, M], and how much it can add.
EDITS = {
    "alibi": (ALiBi(SLOPES), lambda s, i, j: s - SLOPES.numpy()[:, None, None] * np.abs(i - j), 200.0),
    "bias": (Bias(FULL), lambda s, i, j: s + FULL.numpy(), 5.0),
    "bias_by_key": (Bias(BY_KEY), lambda s, i, j: s + BY_KEY.numpy(), 5.0),
    "bias_by_pair": (Bias(BY_PAIR), lambda s, i, j: s + BY_PAIR.numpy(), 5.0),
    "softcap": (Softcap(1.5), lambda s, i, j: 1.5 * np.tanh(s / 1.5), 0.0),
    "temperature": (Temperature(0.4), lambda s, i, j: s / 0.4, 20.0),
    "temperature_of_a_head": (Temperature(HEATS), lambda s, i, j: s / HEATS.numpy()[:, None, None], 20.0),
    "emphasis": (
        Emphasis([(3, 9), (5, 20), (140, 145)], math.log(30)),
        lambda s, i, j: s + math.log(30) * (((j >= 3) & (j < 20)) | ((j >= 140) & (j < 145))),
        4.0,
    ),
    "emphasis_of_a_head": (
        Emphasis([(0, 60)], WEIGHTS),
        lambda s, i, j: s + WEIGHTS.numpy()[:, None, None] * (j < 60),
        4.0,
    ),
}
SEVERAL = [
    ["alibi", "softcap"],
    ["softcap", "alibi"],
    ["bias", "temperature"],
    ["temperature", "bias"],
    ["alibi", "bias_by_key", "emphasis"],
    ["temperature_of_a_head", "bias_by_pair", "softcap", "emphasis_of_a_head", "alibi"],
]
POSITIONS = {
    "default": (None, None),
    "explicit": (torch.arange(S.N) * 5, torch.randperm(S.M, generator=seeded(4)) - 4),
    "of_a_head": (torch.randint(0, 150, (S.B, S.H, S.N), generator=seeded(5)), torch.arange(S.M).flip(0)[None]),
}


def _expected(q, k, v, names: list[str], given: str) -> oracle.Answer:
    q_positions, k_positions = POSITIONS[given]
    i = oracle.places(q_positions, S.N, S.M - S.N, S.B, S.H)
    j = oracle.places(k_positions, S.M, 0, S.B, S.H)
    seen = oracle.visible(lambda b, h, i, j: (j <= i) & ((i - 60 < j) | (j < 3)), i, j)
    rows, columns = i[..., None], j[..., None, :]
    curves = [lambda s, formula=EDITS[name][1]: formula(s, rows, columns) for name in names]
    return oracle.attention(q, k, v, seen, edits=curves)


@pytest.mark.parametrize("given", POSITIONS)
@pytest.mark.parametrize("names", [[name] for name in EDITS] + SEVERAL, ids="-".join)
@pytest.mark.parametrize("engine", ENGINES)
def test_edits_equal_their_formulas(engine, names, given):
    q, k, v = tensors(S)
    edits = [EDITS[name][0] for name in names]
    where = masks.causal() & (masks.window(60) | masks.sinks(3))
    q_positions, k_positions = POSITIONS[given]

    def run(**more):
        return attend(
            q, k, v, where=where, edits=edits, q_positions=q_positions, k_positions=k_positions,
            engine=ENGINES[engine], **more,
        )  # fmt: skip

    if engine == "sdpa" and not all(edit.additive for edit in edits):
        with pytest.raises(EngineRefused, match="an edit is not additive"):
            run()
        return
    expected = _expected(q, k, v, names, given)
    atol = bound(q, k, v, torch.float64, more=sum(EDITS[name][2] for name in names))
    assert_equals(run(), expected.out, atol)
    state = run(state=True)
    seen = ~np.isinf(expected.lse)
    assert_equals(state.lse[torch.from_numpy(seen)], expected.lse[seen], atol)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_bias_of_minus_infinity_hides_pairs_and_whole_rows(engine):
    s = SHAPES["many_tiles"]
    q, k, v = tensors(s)
    hidden = torch.rand(s.N, s.M, generator=seeded(6)) < 0.3
    hidden[[0, 70, 129]] = True
    bias = torch.zeros(s.N, s.M, dtype=torch.float64).masked_fill(hidden, -torch.inf)
    expected = oracle.attention(q, k, v, ~hidden.numpy())
    for where in (None, masks.window(1000, ahead=1000)):
        found = attend(q, k, v, where=where, edits=[Bias(bias)], engine=ENGINES[engine])
        assert_equals(found, expected.out, bound(q, k, v, torch.float64))
        state = attend(q, k, v, where=where, edits=[Bias(bias)], state=True, engine=ENGINES[engine])
        assert_equals(state.out, expected.out, bound(q, k, v, torch.float64))
        assert (state.lse[:, :, [0, 70, 129]] == -torch.inf).all()


@pytest.mark.parametrize("engine", ["reference", "rows", "rows_7", "rows_16x30", "tiles"])
def test_an_edit_may_be_any_function_of_scores_and_places(engine):
    class Parity(Edit):
        def at(self, scores, b, h, i, j):
            return torch.where((i + j + b + h) % 2 == 0, scores, scores * 0.5 - 1)

    s = SHAPES["many_tiles"]
    q, k, v = tensors(s)
    b, h = np.arange(s.B).reshape(-1, 1, 1, 1), np.arange(s.H).reshape(1, -1, 1, 1)
    i, j = np.arange(s.M - s.N, s.M)[:, None], np.arange(s.M)
    seen = j <= i
    even = (i + j + b + h) % 2 == 0
    expected = oracle.attention(q, k, v, seen, edits=[lambda x: np.where(even, x, x * 0.5 - 1)])
    found = attend(q, k, v, where=masks.causal(), edits=[Parity()], engine=ENGINES[engine])
    assert_equals(found, expected.out, bound(q, k, v, torch.float64, more=2.0))


@pytest.mark.parametrize("engine", ["reference", "rows", "tiles"])
def test_an_edit_that_returns_another_shape_or_dtype_is_named(engine):
    class Narrow(Edit):
        def at(self, scores, b, h, i, j):
            return scores[..., :1]

    class Half(Edit):
        def at(self, scores, b, h, i, j):
            return scores.half()

    q, k, v = tensors(SHAPES["square"])
    with pytest.raises(TypeError, match=r"Narrow.at must return scores of the shape and dtype it was given, \["):
        attend(q, k, v, edits=[Narrow()], engine=engine)
    with pytest.raises(TypeError, match=r"Half.at must return .* torch.float64; got .* torch.float16"):
        attend(q, k, v, edits=[Half()], engine=engine)
