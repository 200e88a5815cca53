"""CoPE counts in longer texts than it was trained on, and finds the last write however far it is."""

from __future__ import annotations

from collections.abc import Sequence

from regard.bench.studies.study import Progress, Row, Study, above, over_seeds, pick, trained

MECHANISMS = ("cope", "rope")
LENGTH, FAR = 64, 256
MORE = "counting with more passes, accuracy"
FLIPS, SPARSE = "flip_flop, accuracy", "flip_flop with sparse writes, accuracy"


def what(length: int) -> str:
    """The name of the figure at one length."""
    return f"counting, accuracy at {length} tokens"


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Accuracy at the trained length, at two and four times it, and with four times the passes."""
    runs = trained("counting", MECHANISMS, steps, seeds, progress, length=LENGTH, tests=128)
    rows = []
    for length in (LENGTH, 2 * LENGTH, FAR):
        rows += over_seeds(runs, what(length), "%", lambda run, n=length: _percent(run["lengths"].get(str(n))))
    return [*rows, *over_seeds(runs, MORE, "%", lambda run: _percent(run["shifts"].get("more passes")))]


def verdict(rows: Sequence[Row]) -> bool | None:
    """Better than rotary positions at four times the trained length."""
    return above(pick(rows, "cope", what(FAR)), pick(rows, "rope", what(FAR)))


def flips(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Accuracy as trained, and with writes further apart than trained."""
    runs = trained("flip_flop", MECHANISMS, steps, seeds, progress, length=LENGTH)
    rows = over_seeds(runs, FLIPS, "%", lambda run: _percent(run["metric"]))
    return rows + over_seeds(runs, SPARSE, "%", lambda run: _percent(run["shifts"].get("sparse")))


def further(rows: Sequence[Row]) -> bool | None:
    """Better than rotary positions where writes are further apart."""
    return above(pick(rows, "cope", SPARSE), pick(rows, "rope", SPARSE))


def _percent(share: float | None) -> float | None:
    return None if share is None else 100 * share


COUNTING = Study(
    name="cope",
    entry="cope",
    claim="Contextual positions count in texts longer than the trained ones, where rotary ones fail.",
    setting=f"2 layers of width 64, counting trained at {LENGTH} tokens: set 1, increment 7, print 4, pass 50 by "
    "weight, values up to 10; with more passes there is less to count, so that longer texts are the harder test",
    rule=f"At {FAR} tokens cope's interval lies above rope's.",
    steps=400,
    seeds=3,
    measure=measure,
    verdict=verdict,
)

FLIP_FLOP = Study(
    name="cope_flip_flop",
    entry="cope",
    claim="Contextual positions find the last write where writes are further apart than trained, and rotary ones do "
    "not.",
    setting=f"2 layers of width 64, flip_flop at {LENGTH} tokens",
    rule="With sparse writes cope's interval lies above rope's.",
    steps=600,
    seeds=3,
    measure=flips,
    verdict=further,
)
STUDIES = (COUNTING, FLIP_FLOP)
