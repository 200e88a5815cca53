"""What a mechanism or method claims; every claim is checked, everything unclaimed is refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Slot = Literal[
    "projection", "position", "mixer", "merge", "layer", "grid", "gate", "aligner", "graph", "depth", "method"
]


@dataclass(frozen=True)
class Source:
    """Where a part comes from: a paper's title, its arXiv identifier (or other locator) and the place in it.

    `authors` as BibTeX writes them, `A and B and others`; `year` is read from an arXiv identifier where it is 0.
    """

    title: str
    locator: str = ""
    place: str = ""
    authors: str = ""
    year: int = 0

    def __str__(self) -> str:
        return ", ".join(part for part in (self.title, self.locator, self.place) if part)


@dataclass(frozen=True)
class Cost:
    """Exponents of the number of tokens: of the time this code takes, and of the state it keeps."""

    time: float
    state: float


@dataclass(frozen=True, init=False)
class Limit:
    """A setting under which a part must equal a named oracle: `Limit("softmax", window=10**6)`.

    `zero` names parameters that are set to zero first; every other parameter keeps its initial value.
    """

    oracle: str
    zero: tuple[str, ...] = ()
    settings: tuple[tuple[str, object], ...] = field(default=())

    def __init__(self, oracle: str, *, zero: tuple[str, ...] = (), **settings: object) -> None:
        object.__setattr__(self, "oracle", oracle)
        object.__setattr__(self, "zero", zero)
        object.__setattr__(self, "settings", tuple(settings.items()))

    def __str__(self) -> str:
        at = [f"{key}={value!r}" for key, value in self.settings] + [f"{name} = 0" for name in self.zero]
        return f"{self.oracle} at {', '.join(at)}" if at else f"{self.oracle} at its initial parameters"


@dataclass(frozen=True, kw_only=True)
class Spec:
    """The machine-readable claim of one part.

    `causal`, `bidirectional`, `cross`, `decode`, `gqa` and `padding` say what a call may ask for; a projection with
    `gqa` can make fewer key heads than query heads, and the other slots take them. `packing` says that documents packed
    into one sequence are kept apart. `scores` says of a mixer that it
    applies the edits of scores which a position hands it, and of a position that it makes such edits. `formula` is what
    the part computes, in plain text, a line each. `limits` name settings at which the part equals an oracle, `variants`
    settings at which every check is made besides the defaults, with a cost of their own where it is another. `bfloat16`
    bounds its error in bfloat16, in multiples of plain attention's; `inert` names parameters that can't change the
    output, which get no gradient. `entry` is the id of its paper in the ledger where it is not `id`.
    `exact_at` is the setting at which a method must leave a pretrained model's logits unchanged.
    """

    id: str
    slot: Slot
    source: Source
    what: str
    formula: str = ""
    causal: bool = True
    bidirectional: bool = True
    cross: bool = False
    decode: bool = True
    gqa: bool = True
    padding: bool = True
    packing: bool = True
    scores: bool = False
    cost: Cost
    limits: tuple[Limit, ...] = ()
    variants: tuple[Mapping[str, object] | tuple[Mapping[str, object], Cost], ...] = ()
    bfloat16: float = 2.0
    inert: tuple[str, ...] = ()
    entry: str = ""
    exact_at: tuple[tuple[str, object], ...] = ()

    @property
    def paper(self) -> str:
        """The id of the paper's entry in the ledger."""
        return self.entry or self.id
