"""Methods by name: the package is walked, there is no list to keep."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import pkgutil

import regard.methods
from regard.core.typed import named, near
from regard.errors import RegardError
from regard.methods.method import Method


@functools.cache
def methods() -> dict[str, type[Method]]:
    """Every method of the package by its id, sorted."""
    found: dict[str, type[Method]] = {}
    for module in pkgutil.walk_packages(regard.methods.__path__, "regard.methods."):
        for value in vars(importlib.import_module(module.name)).values():
            if isinstance(value, type) and issubclass(value, Method) and "spec" in vars(value):
                found[value.spec.id] = value
    return dict(sorted(found.items()))


def create(name: str, **settings: object) -> Method:
    """A method by its id with its settings.

    Raises: RegardError for an unknown name or setting (with the nearest), a value of the wrong type or out of range.
    """
    known = methods()
    if name not in known:
        raise RegardError(f"Unknown method {name!r}.{near(name, known)} Methods are {', '.join(known)}.")
    kind = known[name]
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for setting in settings:
        if setting not in fields:
            have = f"Its settings are {', '.join(fields)}." if fields else "It has none."
            raise RegardError(f"{name} has no setting {setting!r}.{near(setting, fields)} {have}")
        _right_kind(name, fields[setting], settings[setting])
    try:
        return kind(**settings)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise RegardError(f"{name}: {error}") from error


def parse(text: str) -> Method:
    """A method as it is typed: `name` or `name:key=value,key=value`.

    Raises: RegardError where it can't be read or made.
    """
    name, settings = named(text)
    return create(name, **{key: _value(name, key, value) for key, value in settings.items()})


_KINDS = {"bool": "true or false", "int": "a whole number", "float": "a number"}


def _kinds(field: dataclasses.Field) -> list[str]:
    """The kinds of value that a setting takes, as its annotation names them."""
    return [part.strip() for part in str(field.type).split("|")]


def _right_kind(name: str, field: dataclasses.Field, value: object) -> None:
    kinds = _kinds(field)
    known = [kind for kind in kinds if kind in _KINDS]
    came = "None" if value is None else type(value).__name__
    if not known or came in kinds or (came == "int" and "float" in kinds):
        return
    raise RegardError(f"{name}.{field.name} must be {' or '.join(_KINDS[kind] for kind in known)}; got {value!r}.")


def _value(name: str, key: str, text: str) -> object:
    kind = methods().get(name)
    field = next((f for f in dataclasses.fields(kind) if f.name == key), None) if kind else None
    if field is None:
        return text  # create() names the unknown method or setting
    kinds = _kinds(field)
    if "None" in kinds and text.lower() == "none":
        return None
    for wanted, read in (("bool", _bool), ("int", int), ("float", float)):
        if wanted in kinds:
            try:
                return read(text)
            except ValueError:
                if wanted == "int" and "float" in kinds:
                    continue
                raise RegardError(f"{name}.{key} must be {_KINDS[wanted]}; got {text!r}.") from None
    return text


def _bool(text: str) -> bool:
    if text.lower() in ("true", "yes", "1", "on"):
        return True
    if text.lower() in ("false", "no", "0", "off"):
        return False
    raise ValueError(text)
