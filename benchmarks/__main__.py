"""`make bench`: run the measurements, keep them as JSON, and write the table of the documentation."""

from __future__ import annotations

import argparse
import datetime
import importlib
import json
import sys
from pathlib import Path

import torch

from benchmarks.pairing import Figure
from regard.bench.machine import machine, versions

HERE = Path(__file__).parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "benchmarks.md"
SUITES = ("attend", "planning", "rows", "model", "layers", "recurrence")
MARK = "<!-- figures: written by make bench -->"


def main() -> None:
    """Run the named suites (all by default) on the GPU if there is one, else on the CPU."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("suites", nargs="*", help=f"of {', '.join(SUITES)}; all by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--quick", action="store_true", help="shorter lengths")
    parser.add_argument(
        "--only", default="", help="of layers: these mechanisms, by comma; the others keep their figures"
    )
    given = parser.parse_args()
    only = [name for name in given.only.split(",") if name]
    if only and given.suites != ["layers"]:
        parser.error("--only picks mechanisms of one suite: python -m benchmarks layers --only NAME,...")
    unknown = set(given.suites) - set(SUITES)
    if unknown:
        parser.error(f"unknown suite {', '.join(sorted(unknown))}; suites are {', '.join(SUITES)}")
    device = torch.device(given.device)
    RESULTS.mkdir(exist_ok=True)
    for suite in given.suites or SUITES:
        figures = []
        measure = importlib.import_module(f"benchmarks.{suite}").run
        for figure in measure(device, given.quick, only) if only else measure(device, given.quick):
            print(line(figure), flush=True)
            figures.append(figure.plain())
        result = {
            "suite": suite,
            "command": " ".join(["python -m benchmarks", *([suite] if only else sys.argv[1:])]),
            "measured": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "machine": machine(device),
            "versions": versions(),
            "figures": figures,
        }
        path = RESULTS / f"{suite}-{device.type}.json"
        path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_page()


def line(figure: Figure) -> str:
    """One figure for the terminal."""
    aim = f"  [{figure.aim}: {'reached' if figure.reached else 'MISSED'}]" if figure.aim else ""
    return f"{figure.what}: {figure.value:.4g} {figure.unit}  ({figure.setting}){aim}"


def write_page() -> None:
    """Put every kept result into the documentation's table."""
    text = PAGE.read_text(encoding="utf-8").split(MARK)[0].rstrip()
    parts = [text, "", MARK, ""]
    for path in sorted(RESULTS.glob("*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        where = result["machine"]
        device = where["device"] if where["device"] != "cpu" else f"{where['processor']}, {where['threads']} threads"
        parts += [f"## {result['suite'].capitalize()}, on {device}", ""]
        parts += [f"`{result['command']}`, torch {result['versions']['torch']}.", ""]
        parts += ["| what | setting | measured | aim |", "|---|---|---|---|"]
        for f in result["figures"]:
            reached = "" if not f["aim"] else f"{f['aim']}: {'reached' if f['reached'] else 'missed'}"
            what, setting = (f[name].replace("|", "\\|") for name in ("what", "setting"))
            parts.append(f"| {what} | {setting} | {f['value']:.3g} {f['unit']} | {reached} |")
        parts.append("")
    PAGE.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
