"""What was measured of each mechanism: the figures that the benchmark wrote, which travel with the package."""

from __future__ import annotations

import functools
import json
from importlib.resources import files
from typing import Any


@functools.cache
def figures() -> dict[str, Any]:
    """The whole record: the machine, the command, and a row for each mechanism; empty where nothing was measured."""
    place = files("regard") / "data" / "mechanisms.json"
    return json.loads(place.read_text(encoding="utf-8")) if place.is_file() else {}


def measured(name: str) -> tuple[str, ...]:
    """Lines to show of one mechanism: its time against plain softmax attention's, and how it grew."""
    record = figures()
    row = record.get("mechanisms", {}).get(name)
    if not row:
        return ()
    ratios = ", ".join(f"{ratio:.2f} at N={N}" for N, ratio in row["ratio"].items())
    grown = f"from {row['grown']} tokens it grew as N^{row['slope']:.2f}"
    return f"time against plain softmax, forward: {ratios}; {grown}", f"on {record['machine']} by: {record['command']}"
