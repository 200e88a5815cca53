"""What is said of a result: sentences, the table, and a page that is complete in itself and harmless."""

from __future__ import annotations

import copy
import functools
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from regard.bench.train.report import page, write_report
from regard.bench.train.table import table
from regard.bench.train.verdict import sentences
from tests.bench.train.made import result

EVIL = "<script>alert(1)</script>\"'>&{{7*7}}[red]\x1b[31m\u202e"


@functools.cache
def _found() -> dict[str, Any]:
    return result()


@pytest.fixture
def found() -> dict[str, Any]:
    """A result that a test may change: two mechanisms whose figures are written in by hand."""
    made = copy.deepcopy(_found())
    for row, metric, ends in zip(made["rows"], (0.99, 0.5), ((0.98, 1.0), (0.4, 0.6)), strict=True):
        row |= {"metric": metric, "interval": list(ends)}
    made["rows"][0] |= {"reached": 2, "steps_to_target": 150, "seconds_to_target": 1.5}
    made["floor"] |= {"value": 0.01}
    return made


def test_who_solves_the_task_and_who_is_better(found: dict[str, Any]) -> None:
    said = sentences(found)
    assert said[0] == "softmax reaches the target (accuracy at least 95.0%) from all 2 seeds, after 150 steps."
    assert said[1] == "sliding_window:window=2 does not reach the target (accuracy at least 95.0%); it ends at 50.0%."
    assert said[2] == "softmax is better than sliding_window:window=2: 99.0% against 50.0%."
    assert said[3].endswith("the same mathematics, end up to 1.0% apart over 2 seeds.")
    assert said[4].startswith("At eight times the trained length (128 tokens): softmax ")


def test_less_loss_is_better(found: dict[str, Any]) -> None:
    found["task"] |= {"metric": "loss", "target": 1.0}
    assert "sliding_window:window=2 is better than softmax: 0.5000 against 0.9900." in sentences(found)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"floor": 0.5}, "they differ by 0.49, no more than the noise floor 0.5"),
        ({"interval": [0.4, 0.985]}, "their intervals overlap"),
        ({"floor": None}, "no noise floor was measured"),
    ],
)
def test_what_is_within_the_noise_is_not_ranked(change: dict[str, Any], why: str, found: dict[str, Any]) -> None:
    found["floor"]["value"] = change.get("floor", 0.01)
    found["rows"][1]["interval"] = change.get("interval", [0.4, 0.6])
    said = sentences(found)
    assert f"softmax and sliding_window:window=2 are not ranked: {why}." in said
    assert not any("better" in sentence for sentence in said)


def test_a_mechanism_that_broke(found: dict[str, Any]) -> None:
    found["rows"][1] |= {"broke": 1, "metric": None, "interval": None}
    said = sentences(found)
    assert said[1] == "sliding_window:window=2 broke (its loss was not a number) from 1 of 2 seeds."
    assert not any("ranked" in sentence or "better" in sentence for sentence in said)
    assert "broke" in page(found)


def test_the_table_fits_a_terminal(found: dict[str, Any]) -> None:
    console = Console(width=80, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(found))
    text = console.export_text()
    for words in ("softmax", "99.0%", "98.0% to 100%", "2/2", "150", "1.50", "ms/step", "@64"):
        assert words in text
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())


class Reader(HTMLParser):
    """Keeps the elements of a page and its words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_page_asks_for_nothing_and_runs_nothing(found: dict[str, Any], tmp_path: Path) -> None:
    file = write_report(found, tmp_path / "deep")
    text = file.read_text(encoding="utf-8")
    read = Reader(text)
    tags = [tag for tag, _ in read.elements]
    assert tags.count("figure") == 2
    assert tags.count("svg") >= 4
    assert "script" not in tags
    for tag, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            link = attributes.get(name)
            assert link is None or link.startswith(("data:", "#")) or link == "train.json", (tag, link)
    assert not re.search(r"url\((?!#)|@import", text)
    assert [path.name for path in file.parent.iterdir()] == ["report.html"]
    words = " ".join(read.words)
    assert all(sentence in words for sentence in sentences(found))
    ids = [attributes["id"] for _, attributes in read.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_names_that_mean_harm_are_escaped(found: dict[str, Any]) -> None:
    evil = "softmax" + EVIL
    for run in found["runs"]:
        run["mechanism"] = run["mechanism"].replace("sliding_window:window=2", evil)
    found["mechanisms"][1] = found["rows"][1]["mechanism"] = evil
    found["command"] = found["task"]["label"] = found["position"] = found["machine"]["processor"] = EVIL
    found["versions"][EVIL] = EVIL
    text = page(found)
    tags = [tag for tag, _ in Reader(text).elements]
    assert "script" not in tags
    assert "{{" not in text.replace("{{7*7}}", "")
    assert "&lt;script&gt;" in text
    assert "\x1b" not in text
    assert "\u202e" not in text
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(table(found))
    told = console.export_text()
    assert "[red]" in told
    assert "\x1b" not in told
