"""What weights that know places alone can't look up, and what alternating them with plain attention can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick, trained

CAT, ALTER, PLAIN = "cat", "cat/softmax", "softmax"
WHAT, TURNS = "mqar, accuracy", "mqar, accuracy where it takes turns with softmax"


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Accuracy of recall at the end of the training."""
    runs = trained("mqar", (CAT, ALTER, PLAIN), steps, seeds, progress, length=32)
    rows = over_seeds(runs, WHAT, "%", lambda run: None if run["metric"] is None else 100 * run["metric"])
    return [replace(row, mechanism=CAT, what=TURNS) if row.mechanism == ALTER else row for row in rows]


def verdict(rows: Sequence[Row]) -> bool | None:
    """Alternated above pure, and plain attention above pure."""
    pure = pick(rows, CAT, WHAT)
    return both(above(pick(rows, CAT, TURNS), pure), above(pick(rows, PLAIN, WHAT), pure))


STUDY = Study(
    name="cat",
    entry="cat",
    claim="Circular convolution alone does not recall by content; alternated with plain attention it does.",
    setting="2 layers of width 64, 4 pairs of 32 tokens, 32 tokens long; cat in layer 0 where it alternates",
    rule="The intervals of cat in turn with softmax and of softmax alone lie above that of cat alone.",
    steps=400,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
