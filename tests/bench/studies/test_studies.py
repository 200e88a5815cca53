"""Studies: their rules on made figures, their measurements for two steps, and what is kept of them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from regard.bench.studies import Row, kept, studies
from regard.bench.studies.study import above, both
from regard.bench.studies.walk import measured, table
from regard.bench.train.entrant import split
from regard.layers.create import parse
from regard.papers import papers

PAGE = Path(__file__).parents[3] / "docs" / "studies.md"


def row(name: str, value: float, half: float | None = 1.0, what: str = "w") -> Row:
    return Row(name, what, value, None if half is None else value - half, None if half is None else value + half, "%")


def test_intervals_decide() -> None:
    assert above(row("a", 10), row("b", 5)) is True
    assert above(row("a", 5), row("b", 10)) is False
    assert above(row("a", 6), row("b", 5)) is None
    assert above(row("a", 10, None), row("b", 5)) is None
    assert above(None, row("b", 5)) is None
    assert (both(True, True), both(True, None), both(None, False)) == (True, None, False)


def figures(name: str, values: dict[str, float], what: str) -> bool | None:
    return studies()[name].verdict([row(mechanism, value, 0.001, what) for mechanism, value in values.items()])


def test_each_rule_says_what_it_says() -> None:
    from regard.bench.studies.losses import CASTLE, COG, MOH, WHAT

    for name, own in (("cog_attention", COG), ("castle", CASTLE)):
        assert figures(name, {own: 1.0, "softmax": 2.0}, WHAT) is True
        assert figures(name, {own: 2.0, "softmax": 1.0}, WHAT) is False
        assert figures(name, {own: 1.0, "softmax": 1.0}, WHAT) is None
    assert figures("moh", {MOH: 1.01, "softmax": 1.0}, WHAT) is True
    assert figures("moh", {MOH: 1.03, "softmax": 1.0}, WHAT) is False
    assert figures("mta", {"mta:query_kernel=2,key_kernel=9": 90, "softmax": 30}, "letters, accuracy") is True
    assert figures("mta", {"mta:query_kernel=2,key_kernel=9": 30, "softmax": 90}, "letters, accuracy") is False
    times = {"mha": 1.0, "gqa": 1.0, "mqa": 1.0, "sqa": 0.5, "ssqa": 0.5, "xsqa": 0.3}
    what = "forward and backward at 2,048 tokens, time over mha's"
    assert figures("sqa", times, what) is True
    assert figures("sqa", {**times, "xsqa": 0.6}, what) is False
    assert figures("sqa", {**times, "sqa": 1.0}, what) is None


@pytest.mark.parametrize("name", ["mta", "sqa"])
def test_a_study_measures(name: str) -> None:
    told: list[str] = []
    result = measured(replace(studies()[name], steps=1, seeds=2), lambda doing, done: told.append(doing))
    assert result["rows"]
    assert all(one["low"] <= one["value"] <= one["high"] for one in result["rows"])
    assert told
    assert result["shown"] in (True, False, None)
    assert f"## {name}" in table([result])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cope", "castle"])
def test_a_slow_study_measures(name: str) -> None:
    result = measured(replace(studies()[name], steps=1, seeds=1))
    assert len({one["mechanism"] for one in result["rows"]}) > 1


def test_what_is_kept_is_of_studies_and_mechanisms_that_there_are() -> None:
    entries = {paper.id for paper in papers()}
    for result in kept():
        study = studies()[result["name"]]
        assert result["entry"] == study.entry in entries
        rows = [Row(**one) for one in result["rows"]]
        assert study.verdict(rows) is result["shown"]
        if result["name"] not in ("sqa", "frequency_usage"):
            for one in rows:
                assert [parse(name) for name in split(one.mechanism)]
        assert result["seconds"] >= 0
        assert re.fullmatch(r"python -m regard\.bench\.studies \w+", result["command"])


def test_the_page_has_the_figures_that_are_kept() -> None:
    assert table(kept()).strip() in PAGE.read_text(encoding="utf-8")
