"""Mechanisms by name: the package is walked, there is no list to keep."""

from __future__ import annotations

import functools
import importlib
import pkgutil

from regard.core.spec import Slot as SlotName
from regard.errors import RegardError
from regard.mechanisms.slot import Slot


def mechanisms(
    *,
    slot: SlotName | None = None,
    family: str | None = None,
    causal: bool | None = None,
    bidirectional: bool | None = None,
    cross: bool | None = None,
    decode: bool | None = None,
    gqa: bool | None = None,
    padding: bool | None = None,
    packing: bool | None = None,
    max_time_exponent: float | None = None,
) -> dict[str, type[Slot]]:
    """Every mechanism by its id, sorted; only those whose spec answers what is asked.

    `family` is the folder, such as "dense"; `max_time_exponent=1` leaves out what takes more than linear time.

    Raises: ValueError for a family that does not exist.
    """
    found = walk()
    families = sorted({family_of(kind) for kind in found.values()})
    if family is not None and family not in families:
        raise ValueError(f"There is no family {family!r}; families are {', '.join(families)}.")
    asked = {
        "slot": slot, "causal": causal, "bidirectional": bidirectional, "cross": cross, "decode": decode, "gqa": gqa,
        "padding": padding, "packing": packing,
    }  # fmt: skip
    wanted = {name: value for name, value in asked.items() if value is not None}
    return {
        name: kind
        for name, kind in found.items()
        if all(getattr(kind.spec, key) == value for key, value in wanted.items())
        and (family is None or family_of(kind) == family)
        and (max_time_exponent is None or kind.spec.cost.time <= max_time_exponent)
    }


@functools.cache
def walk() -> dict[str, type[Slot]]:
    """Every mechanism of the package by its id, sorted.

    Raises: RegardError where two share an id.
    """
    found: dict[str, type[Slot]] = {}
    package = importlib.import_module("regard.mechanisms")
    for module in pkgutil.walk_packages(package.__path__, "regard.mechanisms."):
        for value in vars(importlib.import_module(module.name)).values():
            if not (isinstance(value, type) and issubclass(value, Slot) and "spec" in vars(value)):
                continue
            other = found.setdefault(value.spec.id, value)
            if other is not value:
                raise RegardError(
                    f"Two mechanisms are called {value.spec.id!r}: {other.__module__}.{other.__qualname__} and "
                    f"{value.__module__}.{value.__qualname__}. Give one another id."
                )
    return dict(sorted(found.items()))


def family_of(kind: type) -> str:
    """The folder that a mechanism lives in."""
    parts = kind.__module__.split(".")
    return parts[-2] if len(parts) > 1 else parts[-1]
