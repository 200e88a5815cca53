"""Positions that are said to hold beyond the trained length."""

from __future__ import annotations

from collections.abc import Sequence

from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick, trained

MECHANISMS = ("fope:length=128", "tapa", "alibi", "rope")
LENGTHS = (128, 256, 512, 1024)


def what(length: int) -> str:
    """The name of the figure at one length."""
    return f"char_lm, loss at {length} tokens"


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """The loss at the trained length and at two, four and eight times it."""
    runs = trained("char_lm", MECHANISMS, steps, seeds, progress, length=LENGTHS[0])
    rows = []
    for length in LENGTHS:
        rows += over_seeds(runs, what(length), "nats", lambda run, length=length: run["lengths"].get(str(length)))
    return rows


def verdict(rows: Sequence[Row]) -> bool | None:
    """Both below rotary positions at eight times the trained length."""
    far = what(LENGTHS[-1])
    return both(*(above(pick(rows, "rope", far), pick(rows, name, far)) for name in MECHANISMS[:2]))


STUDY = Study(
    name="extrapolation",
    entry="fope",
    claim="FoPE and TAPA lose less than rotary positions on texts longer than the trained ones.",
    setting="2 layers of width 64, characters of a book, trained at 128 tokens",
    rule="At 1,024 tokens the intervals of fope and of tapa lie below rope's.",
    steps=600,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
