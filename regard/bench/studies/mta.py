"""Convolved scores find the block that holds two letters."""

from __future__ import annotations

from collections.abc import Sequence

from regard.bench.studies.study import Progress, Row, Study, above, over_seeds, pick, trained

MTA, PLAIN, WHAT = "mta:query_kernel=2,key_kernel=9", "softmax", "letters, accuracy"


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Accuracy at the end of the training."""
    runs = trained("letters", (MTA, PLAIN), steps, seeds, progress, length=33)
    return over_seeds(runs, WHAT, "%", lambda run: None if run["metric"] is None else 100 * run["metric"])


def verdict(rows: Sequence[Row]) -> bool | None:
    """Better than softmax after the same steps."""
    return above(pick(rows, MTA, WHAT), pick(rows, PLAIN, WHAT))


STUDY = Study(
    name="mta",
    entry="mta",
    claim="Multi-token attention finds the block that holds two letters in steps in which softmax attention does not.",
    setting="2 layers of width 64, blocks of 5 of 16 letters, the block's first letter asked",
    rule="mta's interval lies above softmax's after the same steps.",
    steps=1500,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
