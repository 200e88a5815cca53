"""One seeded fault."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Fault:
    """In `file`, `old` (found exactly once) becomes `new`; pytest with the arguments `tests` must then fail."""

    file: str
    old: str
    new: str
    what: str
    tests: tuple[str, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """The files and folders of the tests."""
        return tuple(test.partition("::")[0] for test in self.tests if test.startswith("tests/"))

    def seed(self, root: Path) -> None:
        """Put the fault into the copy of the repository at `root`."""
        text = (root / self.file).read_text(encoding="utf-8")
        (root / self.file).write_text(text.replace(self.old, self.new), encoding="utf-8")


def misfits(faults: Iterable[Fault]) -> list[str]:
    """What keeps faults from being seeded: text that is not there exactly once, tests that are not there."""
    found = []
    for fault in faults:
        file = ROOT / fault.file
        times = file.read_text(encoding="utf-8").count(fault.old) if file.is_file() else 0
        if times != 1:
            found.append(f"{fault.what}: {fault.file} holds its text {times} times, not once: {fault.old!r}")
        if fault.old == fault.new:
            found.append(f"{fault.what}: it changes nothing")
        found += [f"{fault.what}: there is no {path}" for path in fault.paths if not (ROOT / path).exists()]
        found += [f"{fault.what}: it names no tests"] * (not fault.paths)
    return found
