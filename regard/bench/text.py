"""The text that a comparison reads."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from regard.errors import RegardError

BOOK = "alice29.txt"


@dataclass(frozen=True)
class Text:
    """A text with its name and the SHA-256 of its bytes."""

    name: str
    content: str
    sha256: str


def read(path: str | os.PathLike[str] | None = None) -> Text:
    """Read a UTF-8 text file; None reads the book that ships with regard.

    Raises: RegardError where the file is missing, unreadable, empty or not text.
    """
    if path is None:
        data, name = (files("regard") / "data" / BOOK).read_bytes(), BOOK
    else:
        file = Path(path)
        name = file.name
        try:
            data = file.read_bytes()
        except IsADirectoryError:
            raise RegardError(f"{file} is a folder; --text takes a text file.") from None
        except FileNotFoundError:
            raise RegardError(f"There is no file {file}; --text takes the path of a UTF-8 text file.") from None
        except OSError as error:
            raise RegardError(f"{file} can't be read: {error.strerror}.") from error
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise RegardError(f"{name} is not UTF-8 text (byte {error.start}); --text takes plain text.") from None
    if "\0" in content:
        raise RegardError(f"{name} is a binary file; --text takes plain text.")
    if not content.strip():
        raise RegardError(f"{name} is empty; --text takes a text with some words in it.")
    return Text(name, content.replace("\r\n", "\n"), hashlib.sha256(data).hexdigest())
