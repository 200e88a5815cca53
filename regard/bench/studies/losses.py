"""Mechanisms that a paper says to model text as well as softmax attention, or better."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from regard.bench.studies.study import Progress, Row, Study, above, at_most, over_seeds, pick, trained

WHAT, PLAIN = "char_lm, loss", "softmax"
LENGTH, STEPS, SEEDS = 128, 600, 3


def loss_of(*mechanisms: str) -> Callable[[int, int, Progress], list[Row]]:
    """A measure: the held-out loss of each mechanism on the characters of a book."""

    def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
        runs = trained("char_lm", mechanisms, steps, seeds, progress, length=LENGTH)
        return over_seeds(runs, WHAT, "nats", lambda run: run["metric"])

    return measure


def lower(own: str, other: str = PLAIN) -> Callable[[Sequence[Row]], bool | None]:
    """A verdict: whether one loss lies below the other."""

    def verdict(rows: Sequence[Row]) -> bool | None:
        return above(pick(rows, other, WHAT), pick(rows, own, WHAT))

    return verdict


def not_higher(own: str, other: str, margin: float) -> Callable[[Sequence[Row]], bool | None]:
    """A verdict: whether one loss is at most `margin` nats above the other, to the ends of both intervals."""
    return lambda rows: at_most(pick(rows, own, WHAT), pick(rows, other, WHAT), margin)


_SETTING = f"2 layers of width 64, characters of a book, {LENGTH} tokens"
COG, CASTLE, MOH = "cog_attention", "castle:head_dim=8,rope=true", "moh:shared=1,active=2"

STUDIES = (
    Study(
        name="cog_attention",
        entry="cog_attention",
        claim="Signed weights model text better than softmax ones.",
        setting=f"{_SETTING}; signed in both layers, where the paper leaves the first and the last as they are",
        rule="cog_attention's interval lies below softmax's.",
        steps=STEPS,
        seeds=SEEDS,
        measure=loss_of(COG, PLAIN),
        verdict=lower(COG),
    ),
    Study(
        name="castle",
        entry="castle",
        claim="Keys that look ahead model text better than fixed ones at equal size.",
        setting=f"{_SETTING}; heads of width 8 for 16, so that castle has 7/8 of the attention's parameters",
        rule="castle's interval lies below softmax's.",
        steps=STEPS,
        seeds=SEEDS,
        measure=loss_of(CASTLE, PLAIN),
        verdict=lower(CASTLE),
    ),
    Study(
        name="moh",
        entry="moh",
        claim="Three heads in four, chosen by each token, model text as well as all of them.",
        setting=f"{_SETTING}; one head shared and two of three routed; the balance loss is not trained",
        rule="moh's interval ends at most 0.02 nats above the start of softmax's.",
        steps=STEPS,
        seeds=SEEDS,
        measure=loss_of(MOH, PLAIN),
        verdict=not_higher(MOH, PLAIN, 0.02),
    ),
)
