"""What a person gives: a text, and settings."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from regard.bench.settings import TELLING, Settings, chosen
from regard.bench.text import read
from regard.errors import RegardError
from regard.methods.registry import methods


def test_a_text_is_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfcaf\xc3\xa9\r\nend")
    text = read(file)
    assert (text.name, text.content) == ("a.txt", "café\nend")
    assert text.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()


def test_the_book_that_ships() -> None:
    book = read()
    assert book.name == "alice29.txt"
    assert "Alice" in book.content
    assert len(book.content) > 100_000


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty; --text takes a text with some words in it."),
        (b"\n \t", "is empty"),
        (b"abc\xff", "is not UTF-8 text (byte 3); --text takes plain text."),
        (b"abc\0", "is a binary file; --text takes plain text."),
    ],
)
def test_no_text(data: bytes, said: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(data)
    with pytest.raises(RegardError) as caught:
        read(file)
    assert f"a.txt {said}" in str(caught.value)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(RegardError, match="is a folder; --text takes a text file"):
        read(tmp_path)
    with pytest.raises(RegardError, match=r"There is no file .*gone\.txt"):
        read(tmp_path / "gone.txt")
    (tmp_path / "a").write_text("x")
    with pytest.raises(RegardError, match="can't be read: Not a directory"):
        read(tmp_path / "a" / "b")


@pytest.mark.parametrize(("name", "least"), [("context", 64), ("decode", 0), ("needles", 1), ("stream", 0)])
def test_settings_say_the_least(name: str, least: int) -> None:
    assert getattr(Settings(**{name: least}), name) == least
    with pytest.raises(RegardError, match=f"--{name} must be at least {least}; got {least - 1}"):
        Settings(**{name: least - 1})


def test_dense_comes_first_and_nothing_twice() -> None:
    found = chosen(["sliding_window:window=8", "dense", "sliding_window: window = 8", "moba"])
    assert [one.label for one in found] == ["dense", "sliding_window:window=8", "moba:block=128,top_k=8"]
    with pytest.raises(RegardError, match="Did you mean 'moba'"):
        chosen(["mobaa"])


def test_the_telling_set_is_every_method() -> None:
    assert len(chosen([])) == len(TELLING)
    assert {one.spec.id for one in chosen([])} == set(methods())
