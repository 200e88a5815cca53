"""Compiled FlexAttention against the oracle. Compiling takes some 20 seconds a kind, so one case alone is not slow."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from regard import masks
from regard.edits import ALiBi, Bias, Emphasis, Softcap, Temperature
from regard.ops import attend
from tests import oracle
from tests.ops.cases import MASKS, Shape, assert_equals, bound, seeded, tensors

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for the CPU needs a C++ compiler"),
    # torch's limit of 8 kinds in a process does not matter: what these tests run is compiled.
    pytest.mark.filterwarnings("error:flex_attention called without torch.compile"),
]

S = Shape(2, 4, 2, 140, 300, 16, 32)
SLOPES = np.array([0.3, 0.1, 0.05, 0.7])
BIAS = torch.randn(4, 1, 300, generator=seeded(1))
SHUFFLED = torch.stack([torch.randperm(320, generator=seeded(n))[:300] - 10 for n in range(2)])

# Mask, shape, whether positions are given, and edits with their formulas.
CASES = {
    "none_more_queries": ("none", Shape(1, 2, 1, 40, 23, 16, 16), False, []),
    "causal_one_query": ("causal", Shape(2, 2, 2, 1, 133, 16, 16), False, []),
    "future_empty_rows": ("future", Shape(1, 3, 1, 60, 60, 16, 16), False, []),
    "per_head": ("per_head", S, False, []),
    "blocks": ("blocks", S, False, ["temperature"]),
    "documents": ("documents", S, False, ["bias"]),
    "keys": ("keys", S, False, []),
    "shuffled": ("window_and_sinks", S, True, ["bias", "alibi", "emphasis"]),
}
EDITS = {
    "alibi": (ALiBi(list(SLOPES)), lambda s, i, j: s - SLOPES[:, None, None] * np.abs(i - j), 220.0),
    "bias": (Bias(BIAS), lambda s, i, j: s + BIAS.double().numpy(), 5.0),
    "softcap": (Softcap(1.5), lambda s, i, j: 1.5 * np.tanh(s / 1.5), 0.0),
    "temperature": (Temperature(0.4), lambda s, i, j: s / 0.4, 20.0),
    "emphasis": (Emphasis([(3, 90)], 1.5), lambda s, i, j: s + 1.5 * ((j >= 3) & (j < 90)), 2.0),
}


def _check(mask: str, s: Shape, explicit: bool, names: list[str]) -> None:
    q, k, v = tensors(s, torch.float32)
    where, formula = MASKS[mask](s)
    places = SHUFFLED if explicit else None
    i = oracle.places(None, s.N, s.M - s.N, s.B, s.H)
    j = oracle.places(places, s.M, 0, s.B, s.H)
    curves = [lambda x, name=name: EDITS[name][1](x, i[..., None], j[..., None, :]) for name in names]
    expected = oracle.attention(q, k, v, oracle.visible(formula, i, j), edits=curves)
    found = attend(q, k, v, where=where, edits=[EDITS[name][0] for name in names], k_positions=places, engine="flex")
    assert_equals(found, expected.out, bound(q, k, v, torch.float32, more=sum(EDITS[name][2] for name in names)))


def test_flex_equals_the_formula():
    _check("window_and_sinks", S, True, ["softcap", "alibi"])


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_flex_equals_the_formula_for(case):
    _check(*CASES[case])


@pytest.mark.slow
def test_flex_in_bfloat16_errs_at_most_twice_as_much_as_plain_torch():
    q, k, v = tensors(S, torch.bfloat16)
    i, j = torch.arange(160, 300)[:, None], torch.arange(300)
    expected = oracle.attention(q, k, v, (j <= i).numpy()).out
    scores = (q @ k.repeat_interleave(2, 1).transpose(-1, -2)).float() * 0.25
    plain = scores.masked_fill(j > i, -torch.inf).softmax(-1).bfloat16() @ v.repeat_interleave(2, 1)
    found = attend(q, k, v, where=masks.causal(), engine="flex")
    assert found.dtype == torch.bfloat16
    worst = (plain.double() - torch.from_numpy(expected)).abs().max()
    assert (found.double() - torch.from_numpy(expected)).abs().max() <= 2 * worst
