"""Intervals by resampling, losses by position, and where a method begins to pay."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from regard.bench.statistics import bootstrap, by_position, perplexity
from regard.bench.timing import break_even, lengths


def noise(count: int, seed: int = 0) -> torch.Tensor:
    return 3 + torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_perplexity_is_the_exponential_of_the_mean() -> None:
    assert perplexity(torch.tensor([0.0, math.log(4)])) == pytest.approx(2, rel=1e-6)


def test_an_interval_is_the_seed_s_and_holds_the_perplexity() -> None:
    losses = noise(4000)
    low, high = bootstrap(losses, seed=3)
    assert bootstrap(losses, seed=3) == (low, high)
    assert bootstrap(losses, seed=4) != (low, high)
    assert low < perplexity(losses) < high
    # Independent losses: the mean of 4000 has a standard error of 1 / sqrt(4000); 62 blocks know it to a tenth or two.
    half = (math.log(high) - math.log(low)) / 2
    assert half == pytest.approx(1.96 / math.sqrt(4000), rel=0.3)


def test_neighbours_that_depend_on_each_other_widen_the_interval() -> None:
    independent = noise(4096)
    repeated = noise(64).repeat_interleave(64)  # as many losses, but 64 draws in all
    widths = [math.log(high / low) for low, high in (bootstrap(independent), bootstrap(repeated))]
    assert widths[1] > 4 * widths[0]


def test_intervals_of_few_and_of_equal_losses() -> None:
    low, high = bootstrap(torch.full((500,), 2.0))
    assert low == pytest.approx(math.exp(2))
    assert high == pytest.approx(math.exp(2))
    low, high = bootstrap(torch.tensor([1.0, 2.0]))  # less than a block: nothing to draw
    assert low == high == pytest.approx(math.exp(1.5))


@pytest.mark.parametrize("count", [5, 16, 1000])
def test_losses_by_position_cover_the_text_once(count: int) -> None:
    losses = noise(count)
    found = by_position(losses)
    assert len(found) == min(16, count)
    assert [found[0][0], found[-1][1]] == [0, count]
    assert all(a[1] == b[0] for a, b in itertools.pairwise(found))
    for start, stop, mean in found:
        assert mean == pytest.approx(losses[int(start) : int(stop)].mean().item())
    assert max(b - a for a, b, _ in found) - min(b - a for a, b, _ in found) <= 1


def test_break_even_is_the_length_from_which_on_it_pays() -> None:
    assert break_even([[256, 2.0, 1.0], [512, 0.9, 1.0], [1024, 0.5, 1.0]]) == 512
    assert (
        break_even([[256, 0.5, 1.0], [512, 2.0, 1.0], [1024, 0.5, 1.0]]) == 1024
    )  # one lucky length counts for nothing
    assert break_even([[256, 0.5, 1.0], [512, 0.5, 1.0], [1024, 1.0, 1.0]]) is None
    assert break_even([[256, 0.96, 1.0]]) is None  # within the margin
    assert break_even([[256, 0.95, 1.0]]) == 256
    assert break_even([]) is None


def test_lengths_double_up_to_the_context() -> None:
    assert lengths(4096) == [256, 512, 1024, 2048, 4096]
    assert lengths(1000) == [500, 1000]
    assert lengths(128) == [128]
    assert lengths(255) == [255]
