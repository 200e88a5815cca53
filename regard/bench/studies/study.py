"""What a study is: one published claim, measured small, and a rule that says beforehand when it counts as shown."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regard.bench.tasks import task
from regard.bench.train.entrant import entrants
from regard.bench.train.settings import Settings
from regard.bench.train.spread import interval
from regard.bench.train.training import Progress as Progress
from regard.bench.train.training import train


@dataclass(frozen=True)
class Row:
    """One figure: of which mechanism, what it is, its mean over seeds and the 95% interval of that, in `unit`."""

    mechanism: str
    what: str
    value: float
    low: float | None
    high: float | None
    unit: str


@dataclass(frozen=True)
class Study:
    """One claim of a paper. `entry` is the paper's id in the ledger; `rule` says in words what `verdict` decides.

    `measure(steps, seeds, progress)` measures; `verdict` is True where the claim is shown, False where the contrary is,
    None where the figures lie too close to tell.
    """

    name: str
    entry: str
    claim: str
    setting: str
    rule: str
    steps: int
    seeds: int
    measure: Callable[[int, int, Progress], list[Row]]
    verdict: Callable[[Sequence[Row]], bool | None]


def trained(
    text: str, mechanisms: Sequence[str], steps: int, seeds: int, progress: Progress, **settings: Any
) -> list[Mapping[str, Any]]:
    """The trainings of each mechanism from each seed, on the same data in the same order."""
    given = Settings(steps=steps, seeds=seeds, **{"every": 100, **settings})
    return train(task(text), entrants(mechanisms), given, measure_floor=False, progress=progress)["runs"]


def over_seeds(
    runs: Sequence[Mapping[str, Any]], what: str, unit: str, value: Callable[[Mapping[str, Any]], float | None]
) -> list[Row]:
    """One row for each mechanism from one figure of each training; mechanisms that broke have none."""
    rows = []
    for name in dict.fromkeys(run["mechanism"] for run in runs):
        values = [value(run) for run in runs if run["mechanism"] == name]
        known = [one for one in values if one is not None]
        if len(known) == len(values):
            bounds = {"low": 0.0, "high": 100.0} if unit == "%" else {}
            low, high = interval(known, **bounds) or (None, None)
            rows.append(Row(name, what, statistics.fmean(known), low, high, unit))
    return rows


def pick(rows: Sequence[Row], mechanism: str, what: str) -> Row | None:
    """The row of one mechanism and figure; None where it has none."""
    return next((row for row in rows if (row.mechanism, row.what) == (mechanism, what)), None)


def above(a: Row | None, b: Row | None) -> bool | None:
    """Whether the interval of a lies above that of b: True, False where below, None where they meet or lack one."""
    if a is None or b is None or a.low is None or b.low is None or a.high is None or b.high is None:
        return None
    if a.low > b.high:
        return True
    return False if a.high < b.low else None


def at_most(a: Row | None, b: Row | None, margin: float) -> bool | None:
    """Whether a is at most `margin` above b, to the ends of both intervals; None where they meet there or lack one."""
    if a is None or b is None or a.low is None or a.high is None or b.low is None or b.high is None:
        return None
    if a.high <= b.low + margin:
        return True
    return False if a.low > b.high + margin else None


def both(*verdicts: bool | None) -> bool | None:
    """True where all are, False where one is, else None."""
    if any(verdict is False for verdict in verdicts):
        return False
    return True if all(verdict is True for verdict in verdicts) else None
