"""Fewer query heads take less time."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from regard.bench.studies.study import Progress, Row, Study, above, both, pick
from regard.layers import Attention

HEADS = {
    "mha": "mha",
    "gqa": "gqa:kv_heads=2",
    "mqa": "mqa",
    "sqa": "sqa",
    "ssqa": "sqa:variant=ssqa",
    "xsqa": "sqa:variant=xsqa",
}
WHAT, LENGTH = "forward and backward at 2,048 tokens, time over mha's", 2048


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Ratios of medians over `steps` turns; a seed is a repetition of the whole."""
    torch.manual_seed(0)
    layers = {name: Attention(128, 8, projection=text, position="rope") for name, text in HEADS.items()}
    x = torch.randn(1, LENGTH, 128)
    ratios: dict[str, list[float]] = {name: [] for name in layers}
    for seed in range(seeds):
        spent: dict[str, list[float]] = {name: [] for name in layers}
        for turn in range(steps + 1):
            for name, layer in layers.items():
                start = time.perf_counter()
                layer(x, causal=True).sum().backward()
                if turn:  # the first warms up
                    spent[name].append(time.perf_counter() - start)
            progress(f"turn {turn}, repetition {seed}", (seed + turn / (steps + 1)) / seeds)
        base = statistics.median(spent["mha"])
        for name, times in spent.items():
            ratios[name].append(statistics.median(times) / base)
    return [Row(name, WHAT, statistics.fmean(some), min(some), max(some), "x") for name, some in ratios.items()]


def verdict(rows: Sequence[Row]) -> bool | None:
    """xsqa takes less than sqa and ssqa, and these less than gqa, mqa and mha."""
    of = {name: pick(rows, name, WHAT) for name in HEADS}
    pairs = [("sqa", "xsqa"), ("ssqa", "xsqa")]
    pairs += [(slow, fast) for slow in ("gqa", "mqa", "mha") for fast in ("sqa", "ssqa")]
    return both(*(above(of[slow], of[fast]) for slow, fast in pairs))


STUDY = Study(
    name="sqa",
    entry="sqa",
    claim="The time of attention falls with the number of query heads, and not with that of key heads alone.",
    setting="one layer of width 128 with 8 nominal heads, causal, float32; the range of three repetitions",
    rule="xsqa takes less time than sqa and ssqa, and both less than gqa, mqa and mha.",
    steps=7,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
