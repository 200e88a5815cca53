"""Dense attention: what every other method is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from regard.core import Cost, Limit, Source, Spec
from regard.methods.method import Method


@dataclass(frozen=True)
class Dense(Method):
    """The model's own attention, untouched: every key that the model allows.

    Source: Attention Is All You Need, 1706.03762.
    """

    spec: ClassVar[Spec] = Spec(
        id="dense",
        slot="method",
        source=Source("Attention Is All You Need", "1706.03762", "section 3.2"),
        what="Every key that the model allows.",
        cross=True,
        cost=Cost(time=2, state=1),
        limits=(Limit("dense"),),
    )
