"""PowerAttention's mask and how far it carries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from regard.masks import causal, everything, per_head, power, receptive_field, sinks, window
from regard.masks.reach import reached


def test_short_sequences_and_wide_windows_are_dense():
    assert torch.equal(power(4, 3).dense(12), causal().dense(12))
    assert torch.equal(power(1, 99).dense(64), causal().dense(64))


@pytest.mark.parametrize(("block", "window", "sinks"), [(1, 1, 0), (2, 3, 1), (4, 2, 2), (3, 1, 0)])
def test_blocks_seen_by_a_query_grow_with_the_logarithm(block, window, sinks):
    seen = power(block, window, sinks).dense(200)[0, 0].numpy()
    assert not np.triu(seen, 1).any()
    for i in range(200):
        blocks = len({j // block for j in np.flatnonzero(seen[i])})
        assert blocks <= window + sinks + math.floor(math.log2(max(i // block, 1))) + 1


def test_a_distance_takes_as_many_layers_as_it_has_ones():
    N = 130
    hops = np.full(N, 99)
    for layers in range(9):
        row = reached(power(), N, layers)[N - 1].flip(0).numpy()  # by distance from the last query
        hops = np.where(row & (hops == 99), layers, hops)
    assert hops.tolist() == [n.bit_count() for n in range(N)]


@pytest.mark.parametrize("N", [1, 2, 33, 128, 200])
def test_power_completes_within_a_logarithm_of_layers(N):
    found = receptive_field(power(), N, 3)
    assert found.layers_needed == max(n.bit_count() for n in range(N))
    assert found.layers_needed <= math.ceil(math.log2(N)) + 1
    within = sum((N - n) for n in range(N) if n.bit_count() <= 3)
    assert found.coverage == pytest.approx(within / (N * (N + 1) / 2), abs=1e-15)
    assert found.complete == (found.layers_needed <= 3)


def test_blocks_and_sinks_reach_further():
    assert receptive_field(power(4, 1, 1), 128, 1).coverage > receptive_field(power(4, 1, 0), 128, 1).coverage
    needed = receptive_field(power(4, 1), 128, 0).layers_needed
    assert needed is not None
    assert needed <= math.ceil(math.log2(128 / 4)) + 1


def test_a_window_needs_layers_in_proportion():
    assert receptive_field(window(9), 129, 2).layers_needed == 16
    assert receptive_field(window(9), 129, 2).coverage == pytest.approx(
        window(17).density(129) * 129 * 2 / 130, abs=1e-12
    )


def test_even_distances_never_reach_odd_ones():
    from regard.masks import dilated

    found = receptive_field(dilated(8, 2), 64, 9)
    assert found.layers_needed is None
    assert not found.complete
    assert found.coverage == pytest.approx(sum(64 - n for n in range(0, 64, 2)) / (64 * 65 / 2))


def test_masks_in_both_directions():
    assert receptive_field(window(2, ahead=1), 10, 3, causal=False).layers_needed == 9
    assert receptive_field(everything, 10, 1, causal=False).coverage == 1
    assert receptive_field(causal(), 10, 1, causal=False).layers_needed is None
    assert receptive_field(sinks(1), 10, 0).coverage == pytest.approx(10 / 55)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: receptive_field(causal(), 0, 1), "N of at least 1 and layers of at least 0; got N=0, layers=1."),
        (lambda: receptive_field(causal(), 4, -1), "got N=4, layers=-1."),
        (
            lambda: receptive_field(per_head([causal(), window(2)]), 4, 1),
            "needs one mask for all",
        ),
    ],
)
def test_wrong_settings_say_what_to_do(make, text):
    with pytest.raises(ValueError) as caught:
        make()
    assert text in str(caught.value)
