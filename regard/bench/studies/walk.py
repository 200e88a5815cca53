"""The studies by name, and what was measured of them."""

from __future__ import annotations

import datetime
import importlib
import json
import pkgutil
import time
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

from regard.bench.machine import machine, versions
from regard.bench.studies.study import Progress, Study

RESULTS = Path(str(files("regard"))) / "bench" / "studies" / "results"


def studies() -> dict[str, Study]:
    """Every study of this package by its name."""
    package = importlib.import_module("regard.bench.studies")
    found: list[Study] = []
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        if module.name.endswith(".__main__"):
            continue
        known = vars(importlib.import_module(module.name))
        found += [known["STUDY"]] if "STUDY" in known else known.get("STUDIES", ())
    return {study.name: study for study in sorted(found, key=lambda study: study.name)}


def _silent(doing: str, done: float) -> None:
    return


def measured(study: Study, progress: Progress = _silent) -> dict[str, Any]:
    """Measure one study: its figures, its verdict, and on what machine."""
    import torch

    start = time.perf_counter()
    rows = study.measure(study.steps, study.seeds, progress)
    return {
        "name": study.name,
        "entry": study.entry,
        "claim": study.claim,
        "setting": f"{study.setting}; {study.steps} steps, {study.seeds} seeds",
        "rule": study.rule,
        "shown": study.verdict(rows),
        "rows": [asdict(row) for row in rows],
        "command": f"python -m regard.bench.studies {study.name}",
        "seconds": round(time.perf_counter() - start),
        "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine(torch.device("cpu")),
        "versions": versions(),
    }


def kept() -> list[dict[str, Any]]:
    """What was measured of each study, by name."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(RESULTS.glob("*.json"))]


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def table(results: list[dict[str, Any]]) -> str:
    """The figures as Markdown: a section for each study."""
    words = {True: "**Shown.**", False: "**Not shown: the contrary is.**", None: "**Too close to tell.**"}
    parts = []
    for one in results:
        parts += [f"## {one['name']}", "", f"{one['claim']} {words[one['shown']]}", ""]
        parts += [f"{one['setting'][:1].upper()}{one['setting'][1:]}. Rule: {one['rule']}", ""]
        parts += ["| mechanism | what | mean | interval |", "|---|---|---|---|"]
        for row in one["rows"]:
            wide = "" if row["low"] is None else f"{row['low']:.3g} to {row['high']:.3g}"
            parts.append(f"| {row['mechanism']} | {row['what']} | {row['value']:.4g} {row['unit']} | {wide} |")
        on = one["machine"]
        place = on["device"] if on["device"] != "cpu" else f"{on['processor']}, {_threads(on['threads'])}"
        parts += ["", f"`{one['command']}`, {one['seconds']} seconds on {place}, torch {one['versions']['torch']}.", ""]
    return "\n".join(parts)
