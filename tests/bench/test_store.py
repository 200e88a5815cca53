"""compare.json: whole or not at all."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from regard.bench import store
from regard.errors import RegardError

RESULT = {"schema": 1, "rows": [{"label": "dense", "kl": 0.1, "needles": [{"depth": 0.5, "correct": True}]}]}


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "compare.json"
    store.write(RESULT, path)
    assert store.read(path) == RESULT
    assert os.listdir(path.parent) == ["compare.json"]


def test_numbers_that_json_does_not_have_are_null(tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    store.write({"schema": 1, "rows": [], "x": {"y": [math.nan, (math.inf, -math.inf, 1.5)], "z": math.nan}}, path)
    assert store.read(path) == {"schema": 1, "rows": [], "x": {"y": [None, [None, None, 1.5]], "z": None}}
    assert "NaN" not in path.read_text()
    assert "Infinity" not in path.read_text()


def test_a_write_that_is_cut_short_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "compare.json"
    store.write(RESULT, path)

    def full(source: str, target: Path) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(RegardError, match=r"compare\.json can't be written: No space left on device"):
            store.write({**RESULT, "rows": []}, path)
    with monkeypatch.context() as patch:

        def stopped(source: str, target: Path) -> None:
            raise KeyboardInterrupt

        patch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            store.write({**RESULT, "rows": []}, path)
    with pytest.raises(TypeError):
        store.write({**RESULT, "rows": [object()]}, path)
    assert store.read(path) == RESULT
    assert os.listdir(tmp_path) == ["compare.json"]


@pytest.mark.parametrize("foreign", ["", "{", "[]", "3", '{"schema": 2, "rows": []}', '{"schema": 1}', "\x00"])
def test_a_foreign_file_is_not_taken(foreign: str, tmp_path: Path) -> None:
    path = tmp_path / "compare.json"
    path.write_text(foreign)
    with pytest.raises(RegardError, match=r"compare\.json .*Type the command without --resume"):
        store.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(RegardError, match="can't be read"):
        store.read(path)
    assert path.read_bytes() == b"\xff\xfe"


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(RegardError, match="There is nothing to resume: no .*compare.json"):
        store.read(tmp_path / "compare.json")


def test_what_can_be_written_is_known_before(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    store.writable(tmp_path / "a" / "b" / "compare.json")
    store.writable(tmp_path / "file")
    for path, said in (
        (tmp_path, "it is a folder"),
        (tmp_path / "file" / "compare.json", "file is a file, not a folder"),
        (tmp_path / "file" / "deeper" / "compare.json", "file is a file, not a folder"),
    ):
        with pytest.raises(RegardError, match=said):
            store.writable(path)
    assert os.listdir(tmp_path) == ["file"]
