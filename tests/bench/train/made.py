"""Small trainings for the tests, and a result as one comes out."""

from __future__ import annotations

from typing import Any

from regard.bench.tasks import task
from regard.bench.train.entrant import entrants
from regard.bench.train.settings import Settings
from regard.bench.train.training import train

TINY = Settings(seeds=2, steps=6, length=16, batch=4, dim=16, heads=2, layers=1, every=2, tests=16)
TASK = task("mqar")


def result(*names: str, settings: Settings = TINY, **more: Any) -> dict[str, Any]:
    return train(TASK, entrants(names or ("softmax", "sliding_window:window=2")), settings, **more)
