"""Tasks to train mechanisms on, by name; each makes its own data."""

from __future__ import annotations

import ast
from dataclasses import fields

from regard.bench.tasks.char_lm import CharLM as CharLM
from regard.bench.tasks.counting import Counting as Counting
from regard.bench.tasks.flip_flop import FlipFlop as FlipFlop
from regard.bench.tasks.letters import Letters as Letters
from regard.bench.tasks.mqar import MQAR as MQAR
from regard.bench.tasks.selective_copy import SelectiveCopy as SelectiveCopy
from regard.bench.tasks.task import SILENT as SILENT
from regard.bench.tasks.task import Task as Task
from regard.core.typed import near
from regard.errors import RegardError

TASKS: dict[str, type[Task]] = {kind.name: kind for kind in (CharLM, Counting, FlipFlop, Letters, MQAR, SelectiveCopy)}


def task(text: str) -> Task:
    """A task as it is typed: `name` or `name:key=value,key=value`.

    Raises: RegardError for an unknown task or setting, with the nearest, and for a value out of range.
    """
    name, colon, rest = text.strip().partition(":")
    if name not in TASKS:
        raise RegardError(f"Unknown task {name!r}.{near(name, TASKS)} Tasks are {', '.join(TASKS)}.")
    kind = TASKS[name]
    known: dict[str, object] = {field.name: field.default for field in fields(kind)}
    settings: dict[str, object] = {}
    for pair in rest.split(",") if colon else []:
        key, equals, value = (part.strip() for part in pair.partition("="))
        if not (key and equals and value):
            raise RegardError(f"{pair!r} in {text!r} is not key=value; type {name}:key=value,key=value.")
        if key not in known:
            have = f"Its settings are {', '.join(known)}." if known else "It has none."
            raise RegardError(f"{name} has no setting {key!r}.{near(key, known)} {have}")
        if key in settings:
            raise RegardError(f"{key!r} is given twice in {text!r}; give it once.")
        settings[key] = _value(f"{name}.{key}", value, known[key])
    return kind(**settings)


def _value(name: str, text: str, default: object) -> object:
    """A setting's value, of the kind that its default is."""
    try:
        value = ast.literal_eval(text.capitalize() if text.lower() in ("true", "false") else text)
    except (ValueError, SyntaxError):
        value = text
    kind = type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        words = {bool: "true or false", int: "a whole number", float: "a number"}
        raise RegardError(f"{name} must be {words.get(kind, kind.__name__)}; got {text!r}.")
    return value
