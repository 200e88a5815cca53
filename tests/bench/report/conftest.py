"""A made result for every test, and the page that is written from it."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_spec = importlib.util.spec_from_file_location("report_sample", Path(__file__).with_name("sample.py"))
assert _spec is not None
assert _spec.loader is not None
_sample = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_sample)

EVIL = "<script>alert(1)</script>\"'>&{{7*7}}[red]\x1b[31m\u202e"


@pytest.fixture
def result() -> dict[str, Any]:
    """A result of eight methods that a test may change."""
    return _sample.sample_result()


@pytest.fixture
def row(result: dict[str, Any]) -> Callable[[str], dict[str, Any]]:
    """The row of a method in that same result."""
    return lambda method: next(one for one in result["rows"] if one["method"] == method)


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the whole report in it."""
    from regard.bench.report import write_report

    return write_report(_sample.sample_result(), tmp_path_factory.mktemp("report") / "deep" / "er").parent


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page whose every name was chosen by somebody who means harm."""
    from regard.bench.report import write_report

    result = _sample.sample_result()
    result["command"] = result["model"]["name"] = result["model"]["revision"] = result["text"]["name"] = EVIL
    result["settings"][EVIL] = result["versions"][EVIL] = result["machine"]["processor"] = EVIL
    result["rows"] = result["rows"][:4]
    for one in result["rows"][1:]:
        one["method"], one["label"] = one["method"] + EVIL, one["label"] + EVIL
        one["settings"][EVIL] = EVIL
    for one in result["stream"][1:]:
        one["method"], one["label"] = one["method"] + EVIL, one["label"] + EVIL
    return write_report(result, tmp_path_factory.mktemp("hostile"))
