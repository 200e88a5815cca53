"""Mechanisms that keep a state of fixed size, on text and on recall."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from regard.bench.studies.study import Progress, Row, Study, above, at_most, both, over_seeds, pick, trained

TEXT, RECALL, PLAIN = "char_lm, loss", "mqar, accuracy", "softmax"
LENGTH, STEPS, SEEDS, MARGIN = 64, 300, 3, 0.06
LATTE, LIGHTNING, LIGHTNET, GAM = "latte", "lightning_attention:layers=2", "lightnet:lrpe=rotary", "gam:slots=64"
SUMS, EXP, SOFTPLUS = "lightning_attention2:slopes=0", "dsf", "dsf:normaliser=softplus"


def measured(text: Sequence[str] = (), recall: Sequence[str] = ()) -> Callable[[int, int, Progress], list[Row]]:
    """A measure: held-out losses on the characters of a book, and shares of values that are recalled."""

    def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
        rows = []
        if text:
            runs = trained("char_lm", text, steps, seeds, progress, length=LENGTH)
            rows += over_seeds(runs, TEXT, "nats", lambda run: run["metric"])
        if recall:
            runs = trained("mqar", recall, 2 * steps, seeds, progress, length=32)
            rows += over_seeds(runs, RECALL, "%", lambda run: None if run["metric"] is None else 100 * run["metric"])
        return rows

    return measure


def close(own: str, other: str = PLAIN) -> Callable[[Sequence[Row]], bool | None]:
    """A verdict: whether one loss is at most the margin above the other, to the ends of both intervals."""
    return lambda rows: at_most(pick(rows, own, TEXT), pick(rows, other, TEXT), MARGIN)


def more(own: str, other: str) -> Callable[[Sequence[Row]], bool | None]:
    """A verdict: whether one recalls more than the other."""
    return lambda rows: above(pick(rows, own, RECALL), pick(rows, other, RECALL))


_SETTING = f"2 layers of width 64, characters of a book, {LENGTH} tokens"
_RULE = f"interval ends at most {MARGIN} nats above the start of"

STUDIES = (
    Study(
        name="latte",
        entry="latte",
        claim="Sixteen latents a head model text nearly as well as softmax attention over all tokens.",
        setting=f"{_SETTING}; latte is told no positions, softmax has rotary ones",
        rule=f"latte's {_RULE} softmax's.",
        steps=STEPS,
        seeds=SEEDS,
        measure=measured((LATTE, PLAIN)),
        verdict=close(LATTE),
    ),
    Study(
        name="lightning_attention",
        entry="lightning_attention",
        claim="Linear attention that fades at fixed rates models text as well as softmax attention.",
        setting=f"{_SETTING}; TransNormer's layer without its first layer's angles, softmax with rotary positions",
        rule=f"lightning_attention's {_RULE} softmax's.",
        steps=STEPS,
        seeds=SEEDS,
        measure=measured((LIGHTNING, "lightning_attention2", PLAIN)),
        verdict=close(LIGHTNING),
    ),
    Study(
        name="lightnet",
        entry="lightnet",
        claim="A running softmax in place of a decay models text as well as attention that fades at fixed rates.",
        setting=f"{_SETTING}; both with a norm and a gate",
        rule=f"lightnet's {_RULE} lightning_attention's.",
        steps=STEPS,
        seeds=SEEDS,
        measure=measured((LIGHTNET, LIGHTNING)),
        verdict=close(LIGHTNET, LIGHTNING),
    ),
    Study(
        name="gam",
        entry="gam",
        claim="GAM models text as well as attention, though what lies beyond its convolutions is lost to it.",
        setting=f"{_SETTING}, 64 slots; mqar at 32 tokens for twice the steps, where two layers reach 4 tokens back",
        rule=f"gam's {_RULE} softmax's, and the interval of what softmax recalls lies above gam's.",
        steps=STEPS,
        seeds=SEEDS,
        measure=measured((GAM, PLAIN), (GAM, PLAIN)),
        verdict=lambda rows: both(close(GAM)(rows), more(PLAIN, GAM)(rows)),
    ),
    Study(
        name="dsf",
        entry="dsf",
        claim="A normaliser that the token gives lifts the recall of linear attention.",
        setting="2 layers of width 64, mqar at 32 tokens for twice the steps, rotary positions; states of one size",
        rule="The intervals of dsf with exp and with softplus lie above that of unnormalised linear attention.",
        steps=STEPS,
        seeds=SEEDS,
        measure=measured((), (EXP, SOFTPLUS, SUMS, PLAIN)),
        verdict=lambda rows: both(more(EXP, SUMS)(rows), more(SOFTPLUS, SUMS)(rows)),
    ),
)
