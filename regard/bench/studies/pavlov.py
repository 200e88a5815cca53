"""A head holds as many associations without error as the square root of its width, and as its width on average."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from itertools import pairwise

import torch

from regard.bench.capacity import capacity
from regard.bench.studies.study import Progress, Row, Study, above, both, pick
from regard.bench.train.spread import interval

WIDTHS = (32, 64, 128, 256)
AVERAGE = "power of the width, pairs at a mean error of one half"
WORST = "power of the width, pairs at a largest error of one half"
SURE = "power of the width, pairs that the largest cosine of two keys guarantees an error below one half"
FOUND = "pairs whose nearest value is their own, 64 pairs in a width of 64"
BLOCK = "mean error, 32 pairs in a width of 64 shown 8 times"


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Slopes of capacity over widths, and recall by rule; `steps` trials each."""
    powers: dict[str, list[float]] = {AVERAGE: [], WORST: [], SURE: []}
    found: dict[tuple[str, str], list[float]] = {}
    for seed in range(seeds):
        source = torch.Generator().manual_seed(seed)
        limits: dict[str, list[float]] = {AVERAGE: [], WORST: [], SURE: []}
        for n, width in enumerate(WIDTHS):
            counts = sorted({max(2, round(2 ** (step / 4))) for step in range(4, 4 * int(math.log2(width)) + 1)})
            held = capacity(width, counts, trials=steps, generator=source)
            limits[AVERAGE].append(_reached([(one.pairs, one.error) for one in held]))
            limits[WORST].append(_reached([(one.pairs, one.worst) for one in held]))
            limits[SURE].append(_reached([(one.pairs, (one.pairs - 1) * one.coherence) for one in held]))
            progress(f"width {width}, seed {seed}", (seed + n / len(WIDTHS)) / seeds)
        for what, pairs in limits.items():
            powers[what].append(_slope([math.log(w) for w in WIDTHS], [math.log(p) for p in pairs]))
        for rule in ("hebb", "delta", "softmax"):
            held = capacity(64, [64], rule=rule, trials=steps, generator=source)[0]
            found.setdefault((rule, FOUND), []).append(100 * held.right)
            again = capacity(64, [32], rule=rule, trials=steps, repeats=8, generator=source)[0]
            if rule != "softmax":
                scale = 8 if rule == "hebb" else 1  # what is added eight times is eight times as large
                found.setdefault((rule, BLOCK), []).append(again.error / scale)
    rows = [_row("hebb", what, values, "") for what, values in powers.items()]
    return rows + [_row(rule, what, values, "%" if what == FOUND else "") for (rule, what), values in found.items()]


def _reached(curve: list[tuple[int, float]]) -> float:
    """How many pairs there are where the error reaches one half, between the counts that were tried."""
    for (a, low), (b, high) in pairwise(curve):
        if low < 0.5 <= high:
            return a * (b / a) ** ((0.5 - low) / (high - low))
    return float(curve[0][0] if curve[0][1] >= 0.5 else curve[-1][0])


def named(rule: str) -> str:
    """The mechanism that learns by this rule."""
    return rule if rule == "softmax" else f"pavlov:rule={rule}"


def _slope(x: list[float], y: list[float]) -> float:
    return statistics.linear_regression(x, y).slope


def _row(rule: str, what: str, values: list[float], unit: str) -> Row:
    low, high = interval(values) or (None, None)
    return Row(named(rule), what, statistics.fmean(values), low, high, unit)


def verdict(rows: Sequence[Row]) -> bool | None:
    """The mean grows with the width, what is guaranteed with about its root, and the delta rule errs less."""
    mean, sure = pick(rows, named("hebb"), AVERAGE), pick(rows, named("hebb"), SURE)
    if mean is None or sure is None:
        return None
    near = abs(mean.value - 1) <= 0.15 and abs(sure.value - 0.5) <= 0.15
    return both(near, above(mean, sure), above(pick(rows, named("hebb"), BLOCK), pick(rows, named("delta"), BLOCK)))


STUDY = Study(
    name="pavlov",
    entry="pavlov",
    claim="A head holds on the order of sqrt(width) associations without error and of its width on average; a rule "
    "that corrects, such as the delta rule, holds more.",
    setting="random unit keys and values written into one matrix, widths of 32 to 256; a guarantee is that the other "
    "pairs times the largest cosine of two keys stay below one half; steps are trials",
    rule="the number of pairs at a mean error of one half grows with the width to the power of 1 within 0.15, the "
    "number that is guaranteed to the power of one half within 0.15; repeated pairs are recalled with less error by "
    "the delta rule than by Hebb's",
    steps=64,
    seeds=5,
    measure=measure,
    verdict=verdict,
)
