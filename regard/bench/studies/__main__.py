"""`python -m regard.bench.studies [NAME ...]`: measure studies, keep the figures, and write the page where it is."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from regard.bench.studies.walk import RESULTS, kept, measured, studies, table

PAGE = Path(__file__).resolve().parents[3] / "docs" / "studies.md"
MARK = "<!-- figures: written by python -m regard.bench.studies -->"


def main(names: list[str]) -> int:
    """Measure the named studies, all by default."""
    known = studies()
    if unknown := set(names) - set(known):
        print(f"Unknown study {', '.join(sorted(unknown))}; studies are {', '.join(known)}.", file=sys.stderr)
        return 2
    RESULTS.mkdir(exist_ok=True)
    for name in names or known:

        def progress(doing: str, done: float, name: str = name) -> None:
            _tell(f"{name}: {doing} {done:.0%}")

        told = measured(known[name], progress)
        (RESULTS / f"{name}.json").write_text(json.dumps(told, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        _tell("")
        print(table([told]))
    if PAGE.is_file():
        text = PAGE.read_text(encoding="utf-8").split(MARK)[0].rstrip()
        PAGE.write_text(f"{text}\n\n{MARK}\n\n{table(kept())}", encoding="utf-8")
    return 0


def _tell(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text:<78}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
