"""The study of circular convolution: its rule on made figures, and a step of it."""

from __future__ import annotations

from dataclasses import replace

from regard.bench.studies import Row, studies
from regard.bench.studies.walk import measured


def _rows(what: str, **values: float) -> list[Row]:
    turns = "mqar, accuracy where it takes turns with softmax"
    return [
        Row("cat" if key == "turns" else key, turns if key == "turns" else what, value, value - 0.01, value + 0.01, "")
        for key, value in values.items()
    ]


def test_alternating_must_recall_what_circles_alone_do_not() -> None:
    verdict = studies()["cat"].verdict
    what = "mqar, accuracy"
    assert verdict(_rows(what, cat=20, turns=99, softmax=99)) is True
    assert verdict(_rows(what, cat=99, turns=20, softmax=99)) is False
    assert verdict(_rows(what, cat=20, turns=20, softmax=99)) is None
    assert verdict(_rows(what, cat=20, turns=99)) is None


def test_a_study_of_linear_attention_measures() -> None:
    result = measured(replace(studies()["cat"], steps=1, seeds=1))
    assert len({(row["mechanism"], row["what"]) for row in result["rows"]}) == 3
    assert result["shown"] in (True, False, None)
