"""What several seeds say together."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Two-sided 95% points of Student's t by degrees of freedom.
_T = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip


def interval(values: Sequence[float], *, low: float = -math.inf, high: float = math.inf) -> tuple[float, float] | None:
    """The 95% interval of the mean over seeds by Student's t, cut at what is possible; None for fewer than two."""
    if len(values) < 2:
        return None
    degrees = len(values) - 1
    wide = _T[degrees - 1] if degrees <= len(_T) else 1.96 + 2.5 / degrees
    mean, half = statistics.fmean(values), wide * statistics.stdev(values) / math.sqrt(len(values))
    return max(low, mean - half), min(high, mean + half)


def rows(runs: Iterable[Mapping[str, Any]], labels: Sequence[str], metric: str) -> list[dict[str, Any]]:
    """One row for each mechanism that has finished trainings, over its seeds."""
    found = []
    done = list(runs)
    for label in labels:
        own = [run for run in done if run["mechanism"] == label]
        if own:
            found.append(_row(label, own, metric))
    return found


def _row(label: str, own: Sequence[Mapping[str, Any]], metric: str) -> dict[str, Any]:
    ends = [run["metric"] for run in own if run["metric"] is not None]
    whole = len(ends) == len(own)
    reached = [run for run in own if run["steps_to_target"] is not None]
    all_reached = len(reached) == len(own)
    return {
        "mechanism": label,
        "seeds": len(own),
        "broke": len(own) - len(ends),
        # A mechanism that broke from one seed has no mean that could be held against another's.
        "metric": statistics.fmean(ends) if whole else None,
        "interval": interval(ends, low=0.0, high=1.0 if metric == "accuracy" else math.inf) if whole else None,
        "each": [run["metric"] for run in own],
        "reached": len(reached),
        "steps_to_target": statistics.median(run["steps_to_target"] for run in own) if all_reached else None,
        "seconds_to_target": statistics.median(run["seconds_to_target"] for run in own) if all_reached else None,
        "seconds": statistics.fmean(run["seconds"] for run in own),
        "step_ms": statistics.median(run["step_ms"] for run in own),
        "peak_bytes": max((run["peak_bytes"] for run in own if run["peak_bytes"] is not None), default=None),
        "lengths": _means([run["lengths"] for run in own]),
        "shifts": _means([run["shifts"] for run in own]),
    }


def _means(parts: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    names = dict.fromkeys(name for part in parts for name in part)
    found: dict[str, float | None] = {}
    for name in names:
        values = [value for part in parts if (value := part.get(name)) is not None]
        found[name] = statistics.fmean(values) if len(values) == len(parts) else None
    return found
