"""Fewer query heads take less time, and lose little."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch

from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick, trained
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


OVER, LOSS, RECALL = "char_lm, loss over gqa's", "char_lm, loss", "mqar, accuracy"
GQA, SYMMETRIC, MQA, SLACK = "gqa:kv_heads=4", "sqa:variant=ssqa", "mqa", 1.01


def losses(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Losses of a book's characters, their ratios seed by seed, and accuracy of recall."""
    names = (GQA, SYMMETRIC, MQA)
    first, second = (lambda doing, done, n=n: progress(doing, (n + done) / 2) for n in range(2))
    sizes = {"heads": 8, "length": 64, "batch": 16}
    runs = trained("char_lm", names, steps, seeds, first, tests=128, **sizes)
    base = {run["seed"]: run["metric"] for run in runs if run["mechanism"] == GQA}
    rows = over_seeds(runs, LOSS, "nats", lambda run: run["metric"])
    others = [run for run in runs if run["mechanism"] != GQA]
    rows += over_seeds(others, OVER, "x", lambda run: _over(run["metric"], base[run["seed"]]))
    recalls = trained("mqar", (SYMMETRIC, MQA), steps, seeds, second, **sizes)
    return rows + over_seeds(recalls, RECALL, "%", lambda run: None if run["metric"] is None else 100 * run["metric"])


def _over(own: float | None, other: float | None) -> float | None:
    return None if own is None or other is None else own / other


def near(rows: Sequence[Row]) -> bool | None:
    """Half the query heads lose at most one part in a hundred."""
    row = pick(rows, SYMMETRIC, OVER)
    if row is None or row.low is None or row.high is None:
        return None
    return True if row.high <= SLACK else False if row.low > SLACK else None


STUDIES = (
    Study(
        name="sqa",
        entry="sqa",
        claim="The time of attention falls with the number of query heads, and not with that of key heads alone.",
        setting="one layer of width 128 with 8 nominal heads, causal, float32; the range of three repetitions",
        rule="xsqa takes less time than sqa and ssqa, and both less than gqa, mqa and mha.",
        steps=7,
        seeds=3,
        measure=measure,
        verdict=verdict,
    ),
    Study(
        name="sqa_loss",
        entry="sqa",
        claim="With half the query heads the loss is within about one part in a hundred of grouped queries'.",
        setting="2 layers of width 64 with 8 nominal heads, characters of a book, 64 tokens; and mqar, which the rule "
        "leaves out",
        rule="The interval of ssqa's loss over gqa's, seed by seed, ends at 1.01 or below.",
        steps=300,
        seeds=3,
        measure=losses,
        verdict=near,
    ),
)
