"""What every engine of the recurrence answers."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from regard.ops.recurrence.problem import Recurrence


class Recurring:
    """One way to compute a recurrence; all give the same result where they can run at all."""

    name: ClassVar[str]

    def unsupported(self, p: Recurrence) -> list[str]:
        """Every reason why this engine can't run it; empty where it can."""
        raise NotImplementedError

    def run(self, p: Recurrence) -> tuple[Tensor, Tensor]:
        """The outputs [B, G, R, N, E], and what is kept after the last token [B, G, D, E]."""
        raise NotImplementedError
