"""The study of attention residuals: its rule on made figures, and its measurement for a step."""

from __future__ import annotations

from dataclasses import replace

from regard.bench.studies import Row
from regard.bench.studies.attention_residuals import FULL, GROWTH, LOSS, PLAIN, SPREAD, STUDY
from regard.bench.studies.walk import measured


def figures(own: tuple[float, float, float], plain: tuple[float, float, float]) -> bool | None:
    rows = [
        Row(name, what, value, value - 0.1, value + 0.1, "x")
        for name, values in ((FULL, own), (PLAIN, plain))
        for what, value in zip((GROWTH, SPREAD, LOSS), values, strict=True)
    ]
    return STUDY.verdict(rows)


def test_all_three_decide() -> None:
    assert figures((1, 20, 2), (4, 40, 2)) is True
    assert figures((1, 20, 3), (4, 40, 2)) is False
    assert figures((1, 40, 2), (4, 40, 2)) is None
    assert figures((5, 20, 2), (4, 40, 2)) is False


def test_it_measures() -> None:
    told: list[float] = []
    result = measured(replace(STUDY, steps=1, seeds=1), lambda doing, done: told.append(done))
    assert told == [0.5, 1.0]
    assert [(row["mechanism"], row["what"]) for row in result["rows"]] == [
        (name, what) for what in (GROWTH, SPREAD, LOSS) for name in (PLAIN, FULL)
    ]
    values = {row["what"]: row["value"] for row in result["rows"] if row["mechanism"] == PLAIN}
    assert values[GROWTH] > 1.5
    assert 0 < values[SPREAD] < 300
    assert result["shown"] is None
