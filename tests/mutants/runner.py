"""A copy of the repository with a fault in it, and what the tests say of it."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.fault import ROOT, Fault

LIMIT = 240  # seconds for the tests of one fault
WHOLE = 1800  # seconds for a whole file of tests, without a fault
ARGUMENTS = [
    *("-x", "-q", "--no-header", "--tb=line", "-m", "not slow and not checkpoint"),
    *("-p", "no:cacheprovider", "-p", "tests.mutants.plugin"),
]
# A process that has imported what takes longest, and nothing of the repository, is forked for every fault.
_METHOD = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
_CONTEXT = multiprocessing.get_context(_METHOD)
_HEAVY = ["numpy", "torch", "hypothesis.strategies", "pytest", "transformers"]


@dataclass(frozen=True)
class Verdict:
    """`kind` is "caught", "SURVIVED" or "BROKEN" (nothing was tested); `by` is the test that failed, or what broke."""

    kind: str
    seconds: float
    by: str


def prepare() -> None:
    """Set up the processes to come; call it once, before `run`."""
    os.environ.update(OMP_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    if _METHOD == "forkserver":
        _CONTEXT.set_forkserver_preload(_HEAVY)


def run(fault: Fault | None, tests: tuple[str, ...]) -> Verdict:
    """Run tests on a copy with the fault, in a process of its own."""
    start, limit = time.monotonic(), WHOLE if fault is None else LIMIT
    with tempfile.TemporaryDirectory() as folder:
        copy, log = Path(folder) / "copy", Path(folder) / "log"
        for name in ("regard", "tests"):
            shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "papers.toml"):
            shutil.copy(ROOT / name, copy / name)
        if fault is not None:
            fault.seed(copy)
        process = _CONTEXT.Process(  # type: ignore[attr-defined]
            target=_pytest, args=(str(copy), str(log), [*ARGUMENTS, *tests])
        )
        process.start()
        process.join(limit)
        seconds = time.monotonic() - start
        if process.is_alive():
            process.kill()
            process.join()
            return Verdict("BROKEN", seconds, f"no answer after {limit} s")
        return _verdict(process.exitcode or 0, seconds, log.read_text(encoding="utf-8", errors="replace"))


def _pytest(copy: str, log: str, arguments: list[str]) -> None:
    with open(log, "w", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # From here on nothing may come from the repository itself.
    sys.path[:] = [copy, *(path for path in sys.path if Path(path).resolve() != ROOT)]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("regard", "tests")]:
        del sys.modules[name]
    os.environ["PYTHONPATH"] = copy
    os.chdir(copy)
    import pytest

    sys.exit(int(pytest.main(arguments)))


def _verdict(code: int, seconds: float, said: str) -> Verdict:
    if code == 0:
        return Verdict("SURVIVED", seconds, "")
    if code < 0:
        return Verdict("caught", seconds, "the process died")
    first = re.search(r"^FAILED (\S+)", said, re.MULTILINE)
    if code == 1 and first:
        return Verdict("caught", seconds, first[1])
    # The tests could not be collected, or the package could not be imported.
    return Verdict("BROKEN", seconds, " ".join(said.split())[-400:])
