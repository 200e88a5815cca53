"""What a check is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from regard.testing.subject import Subject


@dataclass(frozen=True)
class Check:
    """One claim: for whom it is made, and what raises Failed where it does not hold.

    The first line of `run`'s docstring tells it.
    """

    name: str
    run: Callable[[Subject], None]
    applies: Callable[[Subject], bool] = lambda subject: True

    @property
    def what(self) -> str:
        """The claim, in one sentence."""
        return (self.run.__doc__ or "").strip().splitlines()[0]
