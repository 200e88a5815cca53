"""The columns of a training benchmark, for the terminal and the page alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from regard.bench.report import format as fmt
from regard.bench.train.verdict import figure, spread

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column: its head, what it means, and a row's cell."""

    head: str
    meaning: str
    cell: Callable[[Row], str]


def columns(result: Mapping[str, Any]) -> list[Column]:
    """What is learnt and what it costs."""
    metric = result["task"]["metric"]
    return [
        Column(metric, "The mean over seeds at the end, on held-out data.", lambda row: figure(row["metric"], metric)),
        Column("95%", "Its interval over seeds, by Student's t.", lambda row: spread(row, metric)),
        Column("solved", "Seeds that reach the target.", lambda row: f"{row['reached']}/{row['seeds']}"),
        Column(
            "steps",
            "Steps to the target, the median over seeds, where all reach it.",
            lambda row: fmt.tokens(row["steps_to_target"]),
        ),
        Column(
            "s", "Seconds of training to the target, likewise.", lambda row: fmt.significant(row["seconds_to_target"])
        ),
        Column("ms/step", "Milliseconds a step, the median.", lambda row: fmt.significant(row["step_ms"])),
        Column("peak", "The most memory that one step took.", lambda row: fmt.size(row["peak_bytes"])),
    ]


def elsewhere(result: Mapping[str, Any]) -> list[Column]:
    """The model's size, and the metric on the task's other distributions and lengths, where there are such."""
    metric, length, rows = result["task"]["metric"], result["settings"]["length"], result["rows"]
    shifts = dict.fromkeys(name for row in rows for name in row["shifts"])
    lengths = [
        name
        for name in dict.fromkeys(name for row in rows for name in row["lengths"])
        if int(name) != length and any(row["lengths"].get(name) is not None for row in rows)
    ]
    return [
        Column("weights", "Parameters of the whole model.", lambda row: fmt.count(row["parameters"])),
        *(Column(name, f"The {metric} on the task's {name} variant.", _at("shifts", name, metric)) for name in shifts),
        *(
            Column(f"@{name}", f"The {metric} on sequences of {name} tokens.", _at("lengths", name, metric))
            for name in lengths
        ),
    ]


def _at(part: str, name: str, metric: str) -> Callable[[Row], str]:
    return lambda row: figure(row[part].get(name), metric)
