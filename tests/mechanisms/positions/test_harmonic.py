"""The harmonic position: its prior alone."""

from __future__ import annotations

import math

import pytest
import torch

from regard.errors import ShapeError
from regard.mechanisms import Call
from regard.mechanisms.positions import HarmonicPosition


def prior(position: HarmonicPosition, far: list[int], scores: float = 0.0) -> torch.Tensor:
    """What becomes of equal scores at these distances, [H, len(far)]."""
    heads = len(position.slopes)
    x = torch.zeros(1, heads, 2, 4, dtype=torch.float64)
    (edit,) = position.edits(x, x, Call(tokens=x, memory=x))
    h, j = torch.arange(heads).view(1, -1, 1, 1), torch.tensor(far).view(1, 1, 1, -1)
    given = torch.full((1, heads, 1, len(far)), scores, dtype=torch.float64)
    return edit.at(given, torch.zeros(1, 1, 1, 1).long(), h, torch.zeros(1, 1, 1, 1).long(), j)[0, :, 0]


def numbers(far: list[int]) -> list[float]:
    return [sum(1 / t for t in range(1, n + 1)) for n in far]


def test_the_prior_is_the_harmonic_number_over_the_heads_number():
    far = [0, 1, 2, 10, 1000]
    want = torch.tensor(numbers(far), dtype=torch.float64)
    for mode, times in (("bias", 1.0), ("factor", 1.0)):
        found = prior(HarmonicPosition(3, mode=mode), far)
        for head in range(3):
            assert torch.allclose(found[head], -times * want / (head + 1), atol=1e-12)
    assert torch.allclose(prior(HarmonicPosition(2, mode="linear"), far)[1], -torch.tensor(far).double() / 2)


@pytest.mark.parametrize("mode", ["factor", "bias", "linear"])
def test_the_prior_falls_all_the_way_and_starts_at_none(mode):
    found = prior(HarmonicPosition(4, mode=mode), list(range(300)))
    assert (found.diff() < 0).all()
    assert found[:, 0].abs().max() < 1e-12


@pytest.mark.parametrize(("a", "keep", "decay"), [(0.8, 1.0, 0.25), (0.2, 0.25, 1.0), (0.0, 0.0, 1.0), (1.0, 1.0, 0.0)])
def test_the_larger_part_counts_whole(a, keep, decay):
    far = [0, 3]
    found = prior(HarmonicPosition(1, a=a), far, scores=2.0)[0]
    assert found.tolist() == pytest.approx([2 * keep - decay * n for n in numbers(far)])


def test_learned_weights_start_as_set_and_are_one_a_head():
    fixed, learned = HarmonicPosition(3, a=0.7), HarmonicPosition(3, a=0.7, learned=True)
    assert [p.shape for p in learned.parameters()] == [(3,)]
    assert not list(fixed.parameters())
    assert torch.allclose(prior(learned, [5], 1.0), prior(fixed, [5], 1.0), rtol=1e-6)
    with torch.no_grad():
        learned.a.copy_(torch.tensor([math.log(1 / 3), 0.0, math.log(3.0)]))  # type: ignore[union-attr]
    found = prior(learned, [0], 1.0)[:, 0]
    assert torch.allclose(found, torch.tensor([1 / 3, 1.0, 1.0], dtype=torch.float64), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"a": 1.5}, "from 0 to 1; got 1.5"),
        ({"mode": "sum"}, "must be one of 'factor', 'bias', 'linear'"),
        ({"learned": True, "a": 1.0}, "a between 0 and 1"),
        ({"learned": True, "mode": "bias"}, "goes with mode='factor'"),
        ({"base": 0.0}, "greater than 1"),
        ({"slope": -1.0}, "slope must be at least 0; got -1.0"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        HarmonicPosition(2, **settings)


@pytest.mark.parametrize("mode", ["factor", "bias", "linear"])
def test_the_slope_scales_the_prior_of_every_head(mode):
    far = [0, 1, 7]
    assert torch.allclose(
        prior(HarmonicPosition(3, mode=mode, slope=0.25), far), prior(HarmonicPosition(3, mode=mode), far) / 4
    )


def test_odd_heads_are_refused():
    with pytest.raises(ShapeError, match="even width; got 3"):
        HarmonicPosition(2).width(3)
