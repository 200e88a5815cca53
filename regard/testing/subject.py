"""What is checked: a mechanism at one setting, made anew for every check."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from regard.core import Spec
from regard.layers.attention import SLOTS, Attention
from regard.layers.create import Named, build, known, settings_of
from regard.mechanisms import Depth, Layer, Slot
from regard.testing.along import Along

DIM, HEADS, BATCH, LENGTH = 32, 4, 2, 12


@dataclass(frozen=True, eq=False)
class Subject:
    """One mechanism at one setting.

    `make(dim, heads, **settings)` gives a layer; `settings` are the variant's, and others may be given to `layer`.
    """

    name: str
    spec: Spec
    make: Callable[..., Layer]
    settings: Mapping[str, object] = field(default_factory=dict)
    dim: int = DIM
    heads: int = HEADS
    fixed: bool = False  # a layer that is there already: it has no settings
    own: tuple[str, ...] = ()  # the names of its settings

    @property
    def label(self) -> str:
        """The mechanism and its variant, as they are shown."""
        shown = ",".join(f"{key}={value}" for key, value in self.settings.items())
        return f"{self.name}:{shown}" if shown else self.name

    def layer(self, *, seed: int = 0, stirred: bool = True, settings: Mapping[str, object] | None = None) -> Layer:
        """The layer in float64, evaluating; `stirred`: no parameter is left at a special initial value."""
        torch.manual_seed(seed)
        made = self.make(self.dim, self.heads, **{**self.settings, **(settings or {})}).double().eval()
        return stir(made, seed + 1) if stirred else made

    def tokens(self, *, seed: int = 0, batch: int = BATCH, length: int = LENGTH) -> Tensor:
        """Random tokens [batch, length, dim] in float64."""
        return torch.randn(batch, length, self.dim, generator=generator(seed), dtype=torch.float64)

    @property
    def modes(self) -> tuple[bool, ...]:
        """The values of `causal` that the spec claims."""
        claims = {True: self.spec.causal, False: self.spec.bidirectional}
        return tuple(causal for causal, claimed in claims.items() if claimed)


def subjects(given: str | type[Slot] | Layer) -> list[Subject]:
    """The subjects for a mechanism's id, its class, or a layer: its defaults and each variant of its spec."""
    if isinstance(given, Layer):
        claims = _claims(given) if isinstance(given, Attention) else given.spec
        width = getattr(given, "heads", HEADS)
        name = type(given).__name__
        return [Subject(name, claims, lambda dim, heads: copy.deepcopy(given), {}, given.dim, width, fixed=True)]
    kind = known(given) if isinstance(given, str) else given
    spec = kind.spec
    own = tuple(settings_of(kind))
    if issubclass(kind, Depth):
        # Seen along the sources, where there is neither padding nor packing.
        spec = replace(spec, padding=False, packing=False)
        own = ("length", *own) if "layers" in own else own
    found = [Subject(spec.id, spec, _maker(kind), own=own)]
    for variant in spec.variants:
        settings, cost = variant if isinstance(variant, tuple) else (variant, spec.cost)
        found.append(Subject(spec.id, replace(spec, cost=cost), _maker(kind), settings, own=own))
    return found


def stir(layer: Layer, seed: int) -> Layer:
    """Move every parameter off its initial value, so that nothing passes because it starts at zero or one."""
    source = generator(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            noise = torch.randn(parameter.shape, generator=source, dtype=torch.float64)
            parameter.add_(noise.to(parameter.dtype), alpha=0.2)
    return layer


def generator(seed: int) -> torch.Generator:
    """A generator of its own for everything random."""
    return torch.Generator().manual_seed(seed)


def _maker(kind: type[Slot]) -> Callable[..., Layer]:
    def make(dim: int, heads: int, **settings: object) -> Layer:
        slots = {slot: settings.pop(slot) for slot in SLOTS if slot in settings}
        if issubclass(kind, Layer):
            made = build(kind, settings, {"dim": dim, "heads": heads})
            assert isinstance(made, Layer)
            return made
        if issubclass(kind, Depth):
            if "length" in settings:  # how many sources it must reach, as a table of positions must
                settings["layers"] = settings.pop("length")
            made = build(kind, settings, {"dim": dim, "heads": heads})
            assert isinstance(made, Depth)
            return Along(made, heads)
        return Attention(dim, heads, **{kind.spec.slot: Named(kind, settings), **slots})  # type: ignore[arg-type]

    return make


def _claims(layer: Attention) -> Spec:
    """What a layer of four slots claims: what all of its slots do."""
    specs = [part.spec for part in layer.parts]
    mixer = layer.mixer.spec
    return Spec(
        id="attention",
        slot="layer",
        source=mixer.source,
        what=mixer.what,
        causal=all(spec.causal for spec in specs),
        bidirectional=all(spec.bidirectional for spec in specs),
        cross=all(spec.cross for spec in specs),
        decode=all(spec.decode for spec in specs),
        gqa=False,
        padding=all(spec.padding for spec in specs),
        packing=all(spec.packing for spec in specs),
        cost=mixer.cost,
        bfloat16=max(spec.bfloat16 for spec in specs),
        inert=tuple(name for spec in specs for name in spec.inert),
    )


__all__ = ["BATCH", "DIM", "HEADS", "LENGTH", "Subject", "generator", "stir", "subjects"]
