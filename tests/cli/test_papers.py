"""`regard papers` against a count of the ledger's own text."""

import json
import re
from pathlib import Path

import pytest

from regard.cli.main import main
from regard.cli.papers import counts
from regard.papers import Paper

LEDGER = (Path(__file__).parents[2] / "papers.toml").read_text(encoding="utf-8")
Output = pytest.CaptureFixture[str]


def entries(**fields: str) -> int:
    """How many blocks of the text have these fields, read without a TOML parser."""
    blocks = LEDGER.split("[[paper]]\n")[1:]
    return sum(all(f'\n{name} = "{value}"\n' in block for name, value in fields.items()) for block in blocks)


def listed(output: Output, *arguments: str) -> dict:
    assert main(["papers", "--json", *arguments]) == 0
    return json.loads(output.readouterr().out)


def test_json_has_every_entry_and_counts_them(capsys: Output) -> None:
    said = listed(capsys)
    assert [paper["id"] for paper in said["papers"]] == re.findall(r'^id = "(.*)"$', LEDGER, re.MULTILINE)
    total = said["counts"]["total"]
    assert total["total"] == entries() == 251
    assert total["planned"] == entries(where="planned")
    assert total["context"] == entries(where="context")
    assert total["done"] == entries() - entries(where="planned") - entries(where="context")
    for kind in {paper["kind"] for paper in said["papers"]}:
        assert said["counts"][kind]["total"] == entries(kind=kind)


@pytest.mark.parametrize("kind", ["engine", "context"])
def test_kind_selects(kind: str, capsys: Output) -> None:
    said = listed(capsys, "--kind", kind)
    assert len(said["papers"]) == entries(kind=kind) > 0
    assert {paper["kind"] for paper in said["papers"]} == {kind}


@pytest.mark.parametrize("status", ["planned", "context"])
def test_status_selects(status: str, capsys: Output) -> None:
    said = listed(capsys, "--status", status)
    assert len(said["papers"]) == entries(where=status) > 0
    assert {paper["status"] for paper in said["papers"]} == {status}


def test_counts_by_kind_and_status() -> None:
    chosen = [
        Paper(id="a", title="A", kind="engine", where="json:loads"),
        Paper(id="b", title="B", kind="engine", where="planned"),
        Paper(id="c", title="C", kind="context", where="context", reason="It defines nothing."),
    ]
    assert counts(chosen) == {
        "engine": {"done": 1, "planned": 1, "context": 0, "total": 2},
        "context": {"done": 0, "planned": 0, "context": 1, "total": 1},
        "total": {"done": 1, "planned": 1, "context": 1, "total": 3},
    }


def test_the_table_shows_ids_reasons_and_totals(capsys: Output) -> None:
    assert main(["papers", "--status", "context"]) == 0
    shown = capsys.readouterr().out
    assert "donut_ctc" in shown
    assert "CTC label model" in shown
    number = entries(where="context")
    assert re.search(rf"total +0 +0 +{number} +{number}\b", shown)


def test_an_unknown_kind_says_which_there_are(capsys: Output) -> None:
    assert main(["papers", "--kind", "mechanisms"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("regard: Invalid value for '--kind': 'mechanisms' is not one of 'mechanism', 'method'")
    assert said.count("\n") == 1
