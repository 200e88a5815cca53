"""FoPE beyond the trained length."""

from __future__ import annotations

from collections.abc import Sequence

from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick, trained

OWN, CLIPPED, ROPE = "fope:length=64", "fope:length=64,gain=0.0", "rope"
MECHANISMS = (OWN, CLIPPED, ROPE, "alibi")
LENGTHS = (64, 128, 256, 512)


def what(length: int) -> str:
    """The name of the figure at one length."""
    return f"char_lm, loss at {length} tokens"


def grown(length: int) -> str:
    """The name of what the loss has grown by since the trained length."""
    return f"char_lm, loss at {length} tokens less that at {LENGTHS[0]}"


def extrapolated(mechanisms: Sequence[str], steps: int, seeds: int, progress: Progress) -> list[Row]:
    """The loss at the trained length and at two, four and eight times it, and what it grows by up to the last."""
    runs = trained("char_lm", mechanisms, steps, seeds, progress, length=LENGTHS[0], tests=128)
    rows = []
    for length in LENGTHS:
        rows += over_seeds(runs, what(length), "nats", lambda run, n=length: run["lengths"].get(str(n)))
    first, last = str(LENGTHS[0]), str(LENGTHS[-1])
    return rows + over_seeds(
        runs, grown(LENGTHS[-1]), "nats", lambda run: _less(run["lengths"].get(last), run["lengths"].get(first))
    )


def _less(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a - b


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """FoPE, its clipping alone, and positions to compare with."""
    return extrapolated(MECHANISMS, steps, seeds, progress)


def verdict(rows: Sequence[Row]) -> bool | None:
    """Below rotary positions at eight times the trained length, and with a loss that has grown less."""
    last = LENGTHS[-1]
    return both(*(above(pick(rows, ROPE, name), pick(rows, OWN, name)) for name in (what(last), grown(last))))


STUDY = Study(
    name="fope",
    entry="fope",
    claim="FoPE loses less than rotary positions on texts longer than the trained ones.",
    setting=f"2 layers of width 64, heads of 8 pairs of which 3 turn a whole turn, characters of a book, trained at "
    f"{LENGTHS[0]} tokens; gain=0.0 is clipping alone, without the Fourier series",
    rule=f"At {LENGTHS[-1]} tokens fope's interval lies below rope's, and so does that of what the loss has grown by.",
    steps=300,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
