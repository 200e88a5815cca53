"""What a mechanism or method claims; every claim is checked, everything unclaimed is refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Slot = Literal[
    "projection", "position", "mixer", "merge", "layer", "grid", "gate", "aligner", "graph", "depth", "method"
]


@dataclass(frozen=True)
class Source:
    """Where a part comes from: a paper's title, its arXiv identifier (or other locator) and the place in it."""

    title: str
    locator: str = ""
    place: str = ""

    def __str__(self) -> str:
        return ", ".join(part for part in (self.title, self.locator, self.place) if part)


@dataclass(frozen=True)
class Cost:
    """Exponents of the number of tokens: of the time this code takes, and of the state it keeps."""

    time: float
    state: float


@dataclass(frozen=True, init=False)
class Limit:
    """A setting under which a part must equal a named oracle: `Limit("softmax", window=10**6)`."""

    oracle: str
    settings: tuple[tuple[str, object], ...] = field(default=())

    def __init__(self, oracle: str, **settings: object) -> None:
        object.__setattr__(self, "oracle", oracle)
        object.__setattr__(self, "settings", tuple(settings.items()))


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The machine-readable claim of one part.

    `causal`, `cross`, `decode`, `gqa` and `padding` say what a call may ask for; `limits` name settings at which the
    part equals an oracle; `exact_at` is the setting that must leave a pretrained model's logits unchanged.
    """

    id: str
    slot: Slot
    source: Source
    what: str
    causal: bool = True
    cross: bool = False
    decode: bool = True
    gqa: bool = True
    padding: bool = True
    cost: Cost
    limits: tuple[Limit, ...] = ()
    exact_at: tuple[tuple[str, object], ...] = ()
