"""A mechanism from its name: a layer with one slot filled by it and plain parts in the others."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Mapping
from typing import Any

from regard.core.typed import named, near
from regard.errors import RegardError
from regard.mechanisms import Depth, Layer, Slot
from regard.mechanisms.walk import walk

# What a layer knows of itself, and hands to every part whose constructor asks for it by name.
SIZES = ("dim", "heads", "kv_heads", "head_dim", "value_dim")


def create(name: str, *, dim: int, heads: int, **settings: object) -> Any:
    """A `Layer` [B, N, dim] -> [B, N, dim] made of the mechanism `name` and its settings.

    A mechanism of one slot sits in an `Attention` whose other slots are plain; `projection=`, `position=`, `mixer=` and
    `merge=` fill those too, by name as `"rope"` or `"rope:base=500000"`, or with a module. A mechanism along the layers
    (slot "depth") comes as it is, a `Depth` [B, N, S, dim] -> [B, N, S, dim] over the S sources of each token.

    Raises: RegardError for an unknown name or setting, with the nearest; ValueError for a value out of range;
    ShapeError where sizes do not fit.
    """
    from regard.layers.attention import SLOTS, Attention  # the layer itself makes its slots by name

    kind = known(name)
    if whole := {"layer": Layer, "depth": Depth}.get(kind.spec.slot):
        made = build(kind, settings, {"dim": dim, "heads": heads})
        if not isinstance(made, whole):
            raise TypeError(f"{kind.__name__} says that it is a {kind.spec.slot} and is not a {whole.__name__}.")
        return made
    if kind.spec.slot not in SLOTS:
        raise RegardError(f"{name!r} is a {kind.spec.slot} and no attention layer; make it as {kind.__name__}(...).")
    slots = {slot: settings.pop(slot) for slot in SLOTS if slot in settings and slot not in settings_of(kind)}
    if kind.spec.slot in slots:
        raise RegardError(f"{name!r} is the {kind.spec.slot} already; leave {kind.spec.slot}= out.")
    slots[kind.spec.slot] = Named(kind, settings)
    return Attention(dim, heads, **slots)  # type: ignore[arg-type]


class Named:
    """A mechanism and its settings, still without the sizes that the layer will give it."""

    def __init__(self, kind: type[Slot], settings: Mapping[str, object]) -> None:
        self.kind, self.settings = kind, dict(settings)


def parse(text: str) -> Named:
    """A mechanism as it is typed: `name` or `name:key=value,key=value`.

    Raises: RegardError where it can't be read.
    """
    name, settings = named(text)
    return Named(known(name), {key: _value(value) for key, value in settings.items()})


def build(kind: type[Slot], settings: Mapping[str, object], sizes: Mapping[str, int]) -> Slot:
    """One part from its settings and from those of the layer's sizes that its constructor names.

    Raises: RegardError for a setting that the part does not have.
    """
    parameters = inspect.signature(kind).parameters
    own = settings_of(kind)
    for setting in settings:
        if setting not in own:
            have = f"Its settings are {', '.join(own)}." if own else "It has none."
            raise RegardError(f"{kind.spec.id} has no setting {setting!r}.{near(setting, own)} {have}")
    given = {name: size for name, size in sizes.items() if name in parameters and name not in settings}
    return kind(**given, **settings)  # type: ignore[arg-type]


def settings_of(kind: type[Slot]) -> dict[str, inspect.Parameter]:
    """The keyword-only settings of a mechanism, by name."""
    found = inspect.signature(kind).parameters
    return {name: p for name, p in found.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}


def known(name: str) -> type[Slot]:
    """The mechanism of this id. Raises: RegardError with the nearest where there is none."""
    found = walk()
    if name not in found:
        raise RegardError(
            f"Unknown mechanism {name!r}.{near(name, found)} Mechanisms are {', '.join(found)}. Methods for pretrained "
            "models are made by regard.methods.create."
        )
    return found[name]


def _value(text: str) -> object:
    if text.lower() in ("true", "false", "none"):
        return {"true": True, "false": False, "none": None}[text.lower()]
    try:
        return ast.literal_eval(text.replace("+", ","))  # 2+4+8 is a list of numbers, since commas part the settings
    except (ValueError, SyntaxError):
        return text
