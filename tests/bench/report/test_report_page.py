"""The page: complete in itself, harmless whatever the names, and whole or not there."""

import errno
import json
import math
import os
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from regard.bench.report import page, write_json, write_report
from regard.bench.report.files import write_bytes
from regard.bench.report.inline import inline
from regard.errors import MissingExtra

VOID = {"meta", "link", "br", "img", "hr", "input"}
ROOT = Path(__file__).parents[3]


class Reader(HTMLParser):
    """Reads a page and keeps its elements; an element that is closed out of turn is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def text(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def read(text: str) -> Reader:
    return Reader(text)


def test_the_folder_holds_the_page_the_figures_and_the_pictures_and_nothing_else(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    assert [name for name in names if not name.endswith(".png")] == ["compare.json", "report.html"]
    assert len(names) == 10


def test_the_page_asks_for_nothing_and_runs_nothing(text: str, read: Reader) -> None:
    assert read.all("script") == []
    for tag, attributes in read.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            link = attributes.get(name)
            assert link is None or link.startswith(("data:", "#")) or link == "compare.json", (tag, link)
    assert not re.search(r"url\((?!#)|@import", text)
    policy = next(one["content"] for one in read.all("meta") if one.get("http-equiv") == "Content-Security-Policy")
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert len(text.encode()) < 2_000_000


def test_ids_are_unique_and_what_refers_to_one_finds_it(text: str, read: Reader) -> None:
    ids = Counter(attributes["id"] for _, attributes in read.elements if attributes.get("id"))
    assert max(ids.values()) == 1
    assert set(re.findall(r"url\(#([^)]+)\)", text)) <= set(ids)
    for _, attributes in read.elements:
        for name in ("aria-labelledby", "aria-describedby"):
            assert attributes.get(name) is None or attributes[name] in ids


def test_charts_speak_and_tables_have_heads(read: Reader) -> None:
    figures = [one for one in read.all("svg") if one.get("viewbox")]
    assert len(figures) == 16
    assert all(one["role"] == "img" and len(one["aria-label"] or "") > 40 for one in figures)
    scopes = Counter(one.get("scope") for one in read.all("th"))
    assert scopes == {"col": 12, "row": 8}
    assert len(read.all("td")) == 8 * 11
    assert read.elements[0] == ("html", {"lang": "en"})
    assert [tag for tag, _ in read.elements if re.fullmatch(r"h\d", tag)][:2] == ["h1", "h2"]


def test_the_page_has_every_section_and_what_it_hangs_on(read: Reader) -> None:
    words = " ".join(" ".join(read.words).split())
    for wanted in (
        "Worth it: power_attention", "Every method against dense", "How it was measured", "How to repeat it",
        "93efa2f097d58c2a74874c7e644dbc9b0cee75a2", "float32", "2 threads", "torch 2.13.0", "needles = 10", "Seed 0",
        "regard compare --model smollm2-135m --context 4096", "pip install 'regard[all]==0.1.0'",
        "regard models pull smollm2-135m", "trained for 8,192 tokens", "9 heads on 3 key/value heads",
        "exp( mean over tokens", "in nats", "† worse quality than a sliding window",
    ):  # fmt: skip
        assert wanted in words


def test_a_hub_name_is_not_pulled(result: dict[str, Any]) -> None:
    from regard.bench.report.provenance import repeat

    result["model"]["name"] = "some/model"
    assert not [line for line in repeat(result) if "pull" in line]


def test_harm_in_names_stays_words(hostile: Path) -> None:
    text = hostile.read_text(encoding="utf-8")
    read = Reader(text)
    assert "<script" not in text.lower()
    assert read.all("script") == []
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "49" not in re.findall(r"&gt;&amp;(\d+)", text)  # {{7*7}} is not worked out
    words = " ".join(read.words)
    # Once escaped and no more: a reader gets the very name back.
    assert words.count("<script>alert(1)</script>\"'>&{{7*7}}[red]") >= 20
    assert "&lt;" not in words
    # In the pictures too.
    assert re.search(r"<text[^>]*>sliding_window&lt;script&gt;", text)


def test_the_figures_beside_the_page_are_the_result(folder: Path, result: dict[str, Any]) -> None:
    assert json.loads((folder / "compare.json").read_text(encoding="utf-8")) == result


def test_json_is_strict(tmp_path: Path) -> None:
    file = write_json({"a": [math.nan, math.inf, 1.5, (2, None)], "é": True}, tmp_path / "x.json")

    def refuse(name: str) -> None:
        raise AssertionError(name)

    assert json.loads(file.read_bytes(), parse_constant=refuse) == {"a": [None, None, 1.5, [2, None]], "é": True}


@pytest.mark.parametrize("step", ["replace", "fsync"])
def test_a_full_disk_leaves_what_was_there_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    write_bytes(tmp_path / "report.html", b"before")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, step, full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(tmp_path / "report.html", b"after")
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_bytes() == b"before"


def test_a_file_has_the_mode_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    assert write_bytes(tmp_path / "one", b"").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_an_empty_result_has_a_page(tmp_path: Path) -> None:
    read = Reader(write_report({}, tmp_path).read_text(encoding="utf-8"))
    assert "There is no measured dense row" in " ".join(read.words)
    assert read.all("figure") == []


def test_inlining_keeps_the_ids_of_two_charts_apart() -> None:
    drawn = (
        '<svg xmlns="a" class="marks" width="20" height="10" viewBox="0 0 20 10"><defs><clipPath id="clip1"/></defs>'
        '<g clip-path="url(#clip1)"><text>id="clip1"</text></g></svg>'
    )
    one = inline(drawn, key="a", label='x "y" <z>')
    assert 'id="a-clip1"' in one
    assert 'clip-path="url(#a-clip1)"' in one
    assert 'aria-label="x &quot;y&quot; &lt;z&gt;"' in one
    assert 'viewBox="0 0 20 10"' in one
    with pytest.raises(ValueError, match="isn't SVG"):
        inline("<p>", key="a", label="b")


@pytest.mark.parametrize(("package", "extra"), [("jinja2", "viewer"), ("altair", "plot"), ("vl_convert", "plot")])
def test_without_an_optional_package_the_extra_is_named_and_nothing_is_written(
    result: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str, extra: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"pip install 'regard\[{extra}\]'"):
        page(result)
    with pytest.raises(MissingExtra):
        write_report(result, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_the_template_is_a_resource_of_the_package_and_travels_in_the_wheel(tmp_path: Path) -> None:
    assert (resources.files("regard.bench") / "templates" / "report.html").is_file()
    wheel = pytest.importorskip("hatchling.builders.wheel", reason="hatchling is not installed here")
    import zipfile

    built = next(iter(wheel.WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])))
    assert "regard/bench/templates/report.html" in zipfile.ZipFile(built).namelist()
