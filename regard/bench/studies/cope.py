"""CoPE counts, and so finds the last write however far it is."""

from __future__ import annotations

from collections.abc import Sequence

from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick, trained

MECHANISMS = ("cope", "rope")
FLIPS, SPARSE = "flip_flop, accuracy", "flip_flop with sparse writes, accuracy"
COUNTS, MORE = "counting, accuracy", "counting with more passes, accuracy"


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Accuracy on both tasks, as trained and off the trained distribution."""
    flips = trained("flip_flop", MECHANISMS, steps, seeds, progress, length=64)
    counts = trained("counting", MECHANISMS, steps, seeds, progress, length=64)
    return [
        *over_seeds(flips, FLIPS, "%", lambda run: _percent(run["metric"])),
        *over_seeds(flips, SPARSE, "%", lambda run: _percent(run["shifts"].get("sparse"))),
        *over_seeds(counts, COUNTS, "%", lambda run: _percent(run["metric"])),
        *over_seeds(counts, MORE, "%", lambda run: _percent(run["shifts"].get("more passes"))),
    ]


def verdict(rows: Sequence[Row]) -> bool | None:
    """Better than rotary positions off the trained distribution, on both tasks."""
    return both(*(above(pick(rows, "cope", what), pick(rows, "rope", what)) for what in (SPARSE, MORE)))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


STUDY = Study(
    name="cope",
    entry="cope",
    claim="Contextual positions solve flip-flop and counting off the trained distribution, where rotary ones fail.",
    setting="2 layers of width 64, flip_flop and counting at 64 tokens",
    rule="Off the trained distribution cope's interval lies above rope's on both tasks.",
    steps=600,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
