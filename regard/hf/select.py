"""Which attention modules, heads and phases an intervention is for."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Phase = Literal["prefill", "decode"]
Kind = Literal["self", "cross"]


@dataclass(frozen=True, kw_only=True)
class Sites:
    """A choice of sites; what is None is not restricted.

    `layers` are layer numbers within their stack; `heads` are query heads, the same in every layer or {layer: heads};
    `phase` is "prefill" or "decode" (one token after others are in the cache); `kind` is "self" or "cross"; `within`
    is part of a module path, such as "decoder" or "model.layers".

    Raises: ValueError where a layer or head is negative, a set is empty, or a word is unknown.
    """

    layers: Collection[int] | None = None
    heads: Collection[int] | Mapping[int, Collection[int]] | None = None
    phase: Phase | None = None
    kind: Kind | None = None
    within: str | None = None

    def __post_init__(self) -> None:
        if self.layers is not None:
            _numbers(self.layers, "layers")
        if isinstance(self.heads, Mapping):
            _numbers(self.heads, "heads")
            for layer, heads in self.heads.items():
                _numbers(heads, f"heads[{layer}]")
        elif self.heads is not None:
            _numbers(self.heads, "heads")
        for name, given, allowed in (
            ("phase", self.phase, ("prefill", "decode")),
            ("kind", self.kind, ("self", "cross")),
        ):
            if given is not None and given not in allowed:
                raise ValueError(f"Sites.{name} must be one of {', '.join(allowed)}, or None; got {given!r}.")

    def selects(self, name: str, layer: int) -> bool:
        """Whether the module of this path and layer number may be meant in some call."""
        if self.layers is not None and layer not in self.layers:
            return False
        if isinstance(self.heads, Mapping) and layer not in self.heads:
            return False
        return self.within is None or f".{self.within}." in f".{name}."

    def now(self, phase: Phase, kind: Kind) -> bool:
        """Whether a call of this phase and kind is meant."""
        return self.phase in (None, phase) and self.kind in (None, kind)

    def heads_of(self, layer: int) -> tuple[int, ...] | None:
        """The heads meant in a layer; None is all of them."""
        heads = self.heads.get(layer, ()) if isinstance(self.heads, Mapping) else self.heads
        return None if heads is None else tuple(sorted(set(heads)))

    @property
    def named(self) -> bool:
        """Whether modules were chosen by layer or path, so that others may be left alone."""
        return self.layers is not None or self.within is not None or isinstance(self.heads, Mapping)


def _numbers(given: Collection[int], name: str) -> None:
    if not len(given):
        raise ValueError(f"Sites.{name} is empty: no site would be chosen. Leave it None for all.")
    if any(not isinstance(n, int) or n < 0 for n in given):
        raise ValueError(f"Sites.{name} must be numbers from 0 up; got {list(given)}.")


everywhere = Sites()
