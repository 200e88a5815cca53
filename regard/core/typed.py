"""What a person types: `name` or `name:key=value,key=value`, and the nearest known word to one that is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from regard.errors import RegardError


def named(text: str) -> tuple[str, dict[str, str]]:
    """The name and its settings, still as text.

    Raises: RegardError where it can't be read, or a setting is given twice.
    """
    name, colon, rest = text.strip().partition(":")
    settings: dict[str, str] = {}
    if colon and not rest:
        raise RegardError(f"{text!r} ends after the colon; type {name}:key=value,... or {name}.")
    for pair in rest.split(",") if rest else []:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not (key and equals and value):
            raise RegardError(f"{pair!r} in {text!r} is not key=value; type {name}:key=value,key=value.")
        if key in settings:
            raise RegardError(f"{key!r} is given twice in {text!r}.")
        settings[key] = value
    return name, settings


def near(word: str, known: Iterable[str]) -> str:
    """' Did you mean ...?' for the nearest known word, or nothing."""
    found = difflib.get_close_matches(word, list(known), 1, 0.5)
    return f" Did you mean {found[0]!r}?" if found else ""
