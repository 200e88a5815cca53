"""No position at all."""

from __future__ import annotations

from typing import ClassVar

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.position import Position


class NoPosition(Position):
    """Queries and keys are told nothing about where they are; under a causal mask the order still shows.

    Shapes: queries and keys as they came.
    Source: "The Impact of Positional Encoding on Length Generalization in Transformers", 2305.19466, section 3.
    """

    spec: ClassVar[Spec] = Spec(
        id="none",
        slot="position",
        source=Source(
            "The Impact of Positional Encoding on Length Generalization in Transformers",
            "2305.19466",
            "section 3",
            authors="Kazemnejad, Amirhossein and Padhi, Inkit and Natesan Ramamurthy, Karthikeyan and Das, Payel and "
            "Reddy, Siva",
        ),
        what="No position is told.",
        formula="q' = q,  k' = k",
        cross=True,
        cost=Cost(time=1, state=0),
        limits=(Limit("softmax"),),
    )
