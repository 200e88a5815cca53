"""One seeded fault."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fault:
    """In `file`, `old` (found exactly once) becomes `new`; pytest with the arguments `tests` must then fail."""

    file: str
    old: str
    new: str
    what: str
    tests: tuple[str, ...]
