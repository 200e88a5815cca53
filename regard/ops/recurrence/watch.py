"""Seeing the recurrences that a module computes, as they are called."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Seen:
    """One call of `recur`: what it was given, its settings by name, and what it returned."""

    q: Tensor
    k: Tensor
    v: Tensor
    settings: dict[str, Any]
    out: Any


@dataclass(frozen=True, eq=False)
class Watcher:
    """Who looks, from which thread, and what was seen."""

    calls: list[Seen] = field(default_factory=list)
    thread: int = field(default_factory=threading.get_ident)


WATCHERS: list[Watcher] = []


@contextmanager
def watched() -> Iterator[list[Seen]]:
    """Every call of `recur` that this thread makes inside of the block."""
    watcher = Watcher()
    WATCHERS.append(watcher)
    try:
        yield watcher.calls
    finally:
        WATCHERS.remove(watcher)


def tell(seen: Seen) -> None:
    """Tell those who look from this thread."""
    for watcher in WATCHERS:
        if watcher.thread == threading.get_ident():
            watcher.calls.append(seen)
