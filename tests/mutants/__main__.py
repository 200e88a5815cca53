"""`make mutants`: seed each fault into a copy of the package and ask the tests; every one must be caught."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutants import edits, engines, masks, merge, methods, stations
from tests.mutants.fault import Fault

ROOT = Path(__file__).resolve().parents[2]
ROOMS = {room.__name__.rpartition(".")[2]: room.FAULTS for room in (masks, merge, engines, edits, stations, methods)}
LIMIT = 240  # seconds; a fault that makes a test hang counts as caught


def main(rooms: list[str]) -> int:
    """Run the faults of these rooms (all by default); 1 where one survives or can't be seeded."""
    unknown = set(rooms) - set(ROOMS)
    if unknown:
        print(f"Unknown room {', '.join(sorted(unknown))}; rooms are {', '.join(ROOMS)}.", file=sys.stderr)
        return 2
    faults = [fault for room in rooms or ROOMS for fault in ROOMS[room]]
    wrong = [fault for fault in faults if (ROOT / fault.file).read_text(encoding="utf-8").count(fault.old) != 1]
    for fault in wrong:
        print(f"can't be seeded: {fault.what} ({fault.file} does not hold its text exactly once)")
    if wrong:
        return 1
    with ThreadPoolExecutor(2) as pool:
        sound = dict(
            zip(tests := sorted({f.tests for f in faults}), pool.map(lambda t: run(None, t)[0], tests), strict=True)
        )
        broken = [t for t, passed in sound.items() if not passed]
        if broken:
            print(f"These tests fail without any fault: {'; '.join(' '.join(t) for t in broken)}")
            return 1
        survived = 0
        for fault, (passed, by) in zip(faults, pool.map(lambda f: run(f, f.tests), faults), strict=True):
            survived += passed
            print(f"{'SURVIVED' if passed else 'caught  '}  {fault.what}" + (f"  ({by})" if by else ""), flush=True)
    print(f"{len(faults)} faults, {len(faults) - survived} caught, {survived} survived")
    return 1 if survived else 0


def run(fault: Fault | None, tests: tuple[str, ...]) -> tuple[bool, str]:
    """Whether the tests pass with the fault in place, and which one failed first."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder)
        for name in ("regard", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "papers.toml"):
            shutil.copy(ROOT / name, copy / name)
        if fault is not None:
            file = copy / fault.file
            file.write_text(file.read_text(encoding="utf-8").replace(fault.old, fault.new), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-x",
            "-q",
            "-m",
            "not slow and not checkpoint",
            "-p",
            "no:cacheprovider",
        ]
        settings = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            done = subprocess.run(
                [*command, *tests], cwd=copy, env=settings, capture_output=True, text=True, timeout=LIMIT
            )
        except subprocess.TimeoutExpired:
            return False, "time ran out"
    first = re.search(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
    if done.returncode not in (0, 1):
        return True, f"pytest could not run: exit {done.returncode}"
    return done.returncode == 0, first[1] if first else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
