"""What a training benchmark tells, in plain words; nothing is ranked inside the noise floor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from regard.bench.report import format as fmt
from regard.bench.train.floor import EXACT, TWIN, tell

Result = Mapping[str, Any]


def sentences(result: Result) -> list[str]:
    """The verdict sentence by sentence: who solves the task, who is better than whom, and how it goes on longer."""
    rows, task = result["rows"], result["task"]
    if not rows:
        return ["Nothing has been trained yet."]
    return [*_solved(rows, task), *_ranked(rows, task, result["floor"]), *_floor(result), *_longer(rows, result)]


def figure(value: float | None, metric: str) -> str:
    """The metric as people read it."""
    if metric == "accuracy":
        return fmt.percent(value)
    return fmt.significant(value, 4)


def spread(row: Mapping[str, Any], metric: str) -> str:
    """Both ends of a row's interval."""
    if row["interval"] is None:
        return fmt.MISSING
    low, high = (figure(end, metric) for end in row["interval"])
    return f"{low} to {high}"


def _solved(rows: list[dict[str, Any]], task: Mapping[str, Any]) -> list[str]:
    said = []
    at = figure(task["target"], task["metric"])
    aim = f"{'at least' if task['metric'] == 'accuracy' else 'at most'} {at}"
    for row in rows:
        name, seeds = fmt.clean(row["mechanism"]), row["seeds"]
        if row["broke"]:
            said.append(f"{name} broke (its loss was not a number) from {row['broke']} of {_seeds(seeds)}.")
        elif row["reached"] == seeds:
            said.append(
                f"{name} reaches the target ({task['metric']} {aim}) from {_all(seeds)}, after "
                f"{fmt.tokens(row['steps_to_target'])} steps."
            )
        elif row["reached"]:
            said.append(f"{name} reaches the target ({task['metric']} {aim}) from {row['reached']} of {_seeds(seeds)}.")
        else:
            said.append(
                f"{name} does not reach the target ({task['metric']} {aim}); it ends at "
                f"{figure(row['metric'], task['metric'])}."
            )
    return said


def _ranked(rows: list[dict[str, Any]], task: Mapping[str, Any], floor: Mapping[str, Any]) -> list[str]:
    """The best against each other one; a pair that can't be told apart is not ranked."""
    metric = task["metric"]
    there = [row for row in rows if row["metric"] is not None]
    if len(there) < 2:
        return []
    best = max(there, key=lambda row: row["metric"] if metric == "accuracy" else -row["metric"])
    name, said = fmt.clean(best["mechanism"]), []
    for row in there:
        if row is best:
            continue
        why, other = tell(best, row, floor["value"]), fmt.clean(row["mechanism"])
        if why:
            said.append(f"{name} and {other} are not ranked: {why}.")
        else:
            said.append(
                f"{name} is better than {other}: {figure(best['metric'], metric)} against "
                f"{figure(row['metric'], metric)}."
            )
    return said


def _floor(result: Result) -> list[str]:
    floor, metric = result["floor"], result["task"]["metric"]
    if floor["value"] is None:
        return ["No noise floor was measured, so nothing is ranked."]
    return [
        f"Noise floor: {EXACT} and {TWIN}, the same mathematics, end up to {figure(floor['value'], metric)} apart over "
        f"{_seeds(len(floor['seeds']))}."
    ]


def _longer(rows: list[dict[str, Any]], result: Result) -> list[str]:
    length, metric = result["settings"]["length"], result["task"]["metric"]
    far = str(8 * length)
    told = [
        f"{fmt.clean(row['mechanism'])} {figure(row['lengths'][far], metric)}"
        for row in rows
        if row["lengths"].get(far) is not None
    ]
    return [f"At eight times the trained length ({far} tokens): {fmt.listed(told)}."] if told else []


def _seeds(count: int) -> str:
    return f"{count} seed" if count == 1 else f"{count} seeds"


def _all(count: int) -> str:
    return "its one seed" if count == 1 else f"all {count} seeds"
