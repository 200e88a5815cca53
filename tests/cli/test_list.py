"""`regard list` and `regard show`."""

from __future__ import annotations

import json

import pytest

import regard
from regard.cli.main import main
from regard.core.describe import FLAGS, bibtex, describe
from regard.core.spec import Cost, Source, Spec
from regard.errors import RegardError
from regard.mechanisms import Mixer
from regard.mechanisms.walk import walk


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 0
    return capsys.readouterr().out


def test_every_mechanism_is_listed_with_its_claims(capsys) -> None:
    rows = json.loads(said(capsys, "list", "--json"))
    assert [row["id"] for row in rows] == list(regard.mechanisms())
    for row in rows:
        spec = walk()[row["id"]].spec
        assert {flag: row[flag] for flag in FLAGS} == {flag: getattr(spec, flag) for flag in FLAGS}
    table = said(capsys, "list")
    assert all(name in table for name in walk())
    assert f"{len(walk())} mechanisms." in table


def test_a_filter_leaves_out(capsys) -> None:
    rows = json.loads(said(capsys, "list", "--json", "--slot", "mixer", "--max-time", "2", "--cross"))
    assert rows
    assert all(row["slot"] == "mixer" and row["cross"] and row["time"] <= 2 for row in rows)
    assert "1 mechanism." not in said(capsys, "list", "--family", "heads")


def test_a_family_that_does_not_exist(capsys) -> None:
    assert main(["list", "--family", "head"]) == 2
    assert "There is no family 'head'; families are" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gqa", "softmax", "moba"])
def test_one_is_shown_with_all_there_is(capsys, name: str) -> None:
    found = json.loads(said(capsys, "show", name, "--json"))
    assert found["id"] == name
    assert found["bibtex"].startswith(f"@misc{{{name},")
    text = " ".join(said(capsys, "show", name).split())
    for word in ("Cost", "Where", "Source", found["class"], *found["limits"]):
        assert word in text


def test_a_wrong_name_says_the_nearest(capsys) -> None:
    assert main(["show", "strem_llm"]) == 2
    assert "Did you mean 'streaming_llm'?" in capsys.readouterr().err
    assert main(["show", "zzz"]) == 2
    assert "Type regard list" in capsys.readouterr().err


def test_every_mechanism_has_a_formula_and_shapes() -> None:
    for kind in walk().values():
        assert describe(kind).says


class Mute(Mixer):
    """It has neither."""

    spec = Spec(id="mute", slot="mixer", source=Source("A probe"), what="A probe.", cost=Cost(time=1, state=0))


def test_a_mechanism_without_formula_or_shapes_gets_no_page() -> None:
    with pytest.raises(RegardError, match="Mute has no formula in its spec and no Shapes in its docstring"):
        describe(Mute)


def test_a_source_as_bibtex() -> None:
    source = Source("A *title*", "2305.13245", "section 2", authors="Doe, Jane and Roe, Richard")
    assert bibtex("key", source) == (
        "@misc{key,\n  title = {{A *title*}},\n  author = {Doe, Jane and Roe, Richard},\n  eprint = {2305.13245},\n"
        "  archivePrefix = {arXiv},\n  year = {2023},\n}"
    )
    assert bibtex("key", Source("T", "ACL 2019", year=2019)) == (
        "@misc{key,\n  title = {{T}},\n  howpublished = {ACL 2019},\n  year = {2019},\n}"
    )
