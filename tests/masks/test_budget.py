"""What planning costs: which pairs are evaluated, and the sparsity of masks that are known in closed form."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from regard import masks
from regard.masks import FULL, PARTIAL, Mask, causal, predicate, sinks, window
from regard.masks.bounds import Bounds
from regard.masks.grid import Grid

LONG = 131072


@dataclass(frozen=True, eq=False)
class Counted(Mask):
    """A mask that counts the pairs it is asked about."""

    mask: Mask
    asked: list[int] = field(default_factory=list)

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        seen = self.mask.at(b, h, i, j)
        self.asked.append(seen.numel())
        return seen

    def bounds(self, grid: Grid) -> Bounds:
        return self.mask.bounds(grid)

    def signature(self, spot):
        return self.mask.signature(spot)

    @property
    def axes(self) -> tuple[int, int]:
        return self.mask.axes


_DOCUMENTS = torch.arange(LONG) // 3000
_TABLE = torch.rand(1024, 1024, generator=torch.Generator().manual_seed(0)) < 0.1

BUILT_IN = {
    "everything": masks.everything,
    "causal": causal(),
    "window": window(512, ahead=3),
    "sinks": sinks(4),
    "documents": masks.documents(_DOCUMENTS),
    "documents_unsorted": masks.documents(_DOCUMENTS.flip(0)),
    "chunks": masks.chunks(1000),
    "dilated": masks.dilated(64, 16),
    "strided": masks.strided(3),
    "power": masks.power(),
    "power_blocks": masks.power(256, 5, 1),
    "neighbourhood_1d": masks.neighbourhood(LONG, 513, stride=4, dilation=2),
    "neighbourhood_2d": masks.neighbourhood((362, 363), 33, stride=2, causal=(False, True)),
    "neighbourhood_3d": masks.neighbourhood((32, 64, 64), (9, 17, 17), stride=(1, 4, 4)),
    "blocks": masks.blocks(_TABLE, 128),
    "keys": masks.keys(torch.randint(0, LONG, (LONG, 4), generator=torch.Generator().manual_seed(0))),
    "streaming": causal() & (window(512) | sinks(4)),
}
# Undecided tiles are evaluated once for each different pattern: these many patterns at most.
PATTERNS = {"power": 32, "power_blocks": 4, "streaming": 4}


@pytest.mark.parametrize("name", BUILT_IN)
def test_planning_a_long_sequence_evaluates_few_pairs(name):
    mask = Counted(BUILT_IN[name])
    plan = mask.tiles(LONG)
    assert plan.status.shape == (1, 1, 1024, 1024)
    assert sum(mask.asked) <= PATTERNS.get(name, 0) * 128 * 128


def test_patterns_are_evaluated_once():
    for mask, most in ((BUILT_IN["streaming"], 5), (causal(), 1), (masks.strided(3), 3), (masks.dilated(64, 16), 10)):
        plan = mask.tiles(LONG)
        assert len(plan.patterns) <= most
        assert int(plan.pattern_ids.max()) == len(plan.patterns) - 1


def test_full_and_empty_tiles_never_call_the_predicate():
    asked = []

    def recorded(b, h, i, j):
        asked.append((i, j))
        return (i + j) % 2 == 0

    mask = sinks(32) | (causal() & predicate(recorded))
    plan = mask.tiles(64, 64, 16)
    pairs = [torch.broadcast_tensors(i // 16, j // 16) for i, j in asked]
    touched = {pair for r, c in pairs for pair in zip(r.flatten().tolist(), c.flatten().tolist(), strict=True)}
    assert touched == {(2, 2), (3, 2), (3, 3)}
    assert all(plan.status[0, 0, r, c] == PARTIAL for r, c in touched)
    assert plan.status[0, 0, :, :2].eq(FULL).all()


@pytest.mark.parametrize("tiles", [1, 2, 7, 80])
def test_the_sparsity_of_causal_attention(tiles):
    plan = causal().tiles(tiles * 16, size=16)
    assert plan.sparsity() == pytest.approx((tiles - 1) / (2 * tiles), abs=1e-15)
    assert plan.count() == tiles * 16 * (tiles * 16 + 1) / 2


def test_counts_in_closed_form():
    N = 5000
    assert window(512).count(N) == 512 * N - 512 * 511 / 2
    assert sinks(4).count(N) == 4 * N
    # Window and sinks overlap in the first rows only.
    assert (causal() & (window(512) | sinks(4))).count(N) == 512 * N - 512 * 511 / 2 + sum(
        min(4, i - 511) for i in range(512, N)
    )
    assert masks.strided(3).density(6000) == pytest.approx(1 / 3, abs=1e-12)
    assert masks.neighbourhood((50, 100), (7, 9)).count(N) == N * 63
    assert masks.per_head([causal(), ~causal()]).count(N) == N * N / 2
