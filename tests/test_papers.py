"""The ledger of papers is complete and true: every object it names exists."""

import json.decoder
import tomllib
from pathlib import Path
from typing import get_args

import pytest

import regard.papers as ledger
from regard.errors import RegardError
from regard.papers import Kind, Paper, papers, resolve

ROOT = Path(__file__).parents[1]


def entry(where: str) -> Paper:
    return Paper(id="probe", title="A probe", kind="engine", where=where)


def test_the_catalogue_is_complete_and_sorted() -> None:
    ids = [paper.id for paper in papers()]
    assert len(ids) == 251
    assert ids == sorted(set(ids))


def test_every_entry_is_well_formed() -> None:
    for paper in papers():
        assert paper.kind in get_args(Kind), paper
        assert paper.title.strip() == paper.title != "", paper
        assert (paper.kind == "context") == (paper.where == "context"), paper
        assert (paper.reason != "") == (paper.where == "context"), paper
        assert "\n" not in paper.reason, paper


def test_every_object_that_is_named_exists() -> None:
    missing = []
    for paper in papers():
        if paper.status == "done":
            try:
                resolve(paper)
            except ImportError as error:
                missing.append(f"{paper.id}: {error}")
    assert missing == []


@pytest.mark.parametrize(
    ("where", "found"),
    [
        ("json.decoder", json.decoder),
        ("json.decoder:JSONDecoder", json.decoder.JSONDecoder),
        ("json.decoder:JSONDecoder.decode", json.decoder.JSONDecoder.decode),
        ("json.decoder.JSONDecoder", json.decoder.JSONDecoder),
        ("json.decoder.JSONDecoder.decode", json.decoder.JSONDecoder.decode),
    ],
)
def test_resolve_finds_modules_and_names(where: str, found: object) -> None:
    assert resolve(entry(where)) is found


@pytest.mark.parametrize(
    "where",
    ["json.decoder:Missing", "json.decoder.Missing", "json.missing:Missing", "no_such_package.Missing", "json:"],
)
def test_resolve_refuses_what_does_not_exist(where: str) -> None:
    with pytest.raises(ImportError):
        resolve(entry(where))


def test_resolve_names_the_dependency_that_a_module_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "probe_of_papers.py").write_text("import dependency_that_is_missing\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="dependency_that_is_missing"):
        resolve(entry("probe_of_papers.Thing"))


@pytest.mark.parametrize("where", ["planned", "context"])
def test_resolve_refuses_a_paper_without_an_object(where: str) -> None:
    with pytest.raises(ValueError, match=f"Paper 'probe' is '{where}'; only a paper that is done has an object"):
        resolve(entry(where))


def test_an_installed_ledger_comes_before_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = '[[paper]]\nid = "one"\ntitle = "One"\nkind = "bench"\nwhere = "planned"\n'
    (tmp_path / "papers.toml").write_text(text)
    monkeypatch.setattr(ledger, "files", lambda package: tmp_path)
    assert papers() == [Paper(id="one", title="One", kind="bench", where="planned")]


def test_a_missing_ledger_says_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "files", lambda package: tmp_path)
    monkeypatch.setattr(ledger, "__file__", str(tmp_path / "package" / "papers.py"))
    with pytest.raises(RegardError, match=r"papers\.toml is missing .* Type: pip install --force-reinstall regard"):
        papers()


def test_the_wheel_and_the_source_archive_carry_the_ledger() -> None:
    targets = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["force-include"]["papers.toml"] == "regard/papers.toml"
    assert "papers.toml" in targets["sdist"]["include"]
