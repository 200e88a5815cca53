"""TAPA within the trained length and beyond it."""

from __future__ import annotations

from collections.abc import Sequence

from regard.bench.studies.fope import LENGTHS, extrapolated, grown, what
from regard.bench.studies.study import Progress, Row, Study, above, both, pick

OWN, ROPE, NONE = "tapa", "rope", "none"
MARGIN = 0.05


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """TAPA, rotary positions and none."""
    return extrapolated((OWN, ROPE, NONE), steps, seeds, progress)


def verdict(rows: Sequence[Row]) -> bool | None:
    """As good as rotary positions within the trained length, and with a loss that grows less beyond it."""
    own, other = (pick(rows, name, what(LENGTHS[0])) for name in (OWN, ROPE))
    within = None
    if own is not None and other is not None and None not in (own.low, own.high, other.low, other.high):
        assert own.high is not None
        assert own.low is not None
        assert other.low is not None
        assert other.high is not None
        within = True if own.high <= other.low + MARGIN else False if own.low > other.high + MARGIN else None
    return both(within, above(pick(rows, ROPE, grown(LENGTHS[-1])), pick(rows, OWN, grown(LENGTHS[-1]))))


STUDY = Study(
    name="tapa",
    entry="tapa",
    claim="TAPA models texts of the trained length as well as rotary positions, and loses less on longer ones.",
    setting=f"2 layers of width 64, characters of a book, trained at {LENGTHS[0]} tokens at one learning rate; the "
    "paper trains models of 7 billion parameters for a whole pretraining, TAPA at a fifth of RoPE's rate, and at so "
    "small an exponent as 0.1 the phase tells neighbours apart by 7% of itself, which is little to learn from at first",
    rule=f"At {LENGTHS[0]} tokens tapa's interval ends at most {MARGIN} nats above the start of rope's, and that of "
    f"what its loss has grown by at {LENGTHS[-1]} lies below rope's.",
    steps=300,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
