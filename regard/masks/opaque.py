"""A mask from any function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.masks.base import Mask


@dataclass(frozen=True, eq=False)
class Predicate(Mask):
    """Pairs for which a function says True; every tile has to be evaluated."""

    function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        try:
            seen = self.function(b, h, i, j)
        except RuntimeError as error:
            if "ambiguous" in str(error) or "data-dependent" in str(error):
                raise RuntimeError(
                    f"{self!r} branches on its index tensors; use torch.where, & and | instead of if, and, or."
                ) from error
            raise
        if not isinstance(seen, Tensor) or seen.dtype != torch.bool:
            found = seen.dtype if isinstance(seen, Tensor) else type(seen).__name__
            raise TypeError(f"{self!r} must return booleans; got {found}. Compare, for example with j <= i.")
        return seen

    def __repr__(self) -> str:
        return f"predicate({getattr(self.function, '__name__', type(self.function).__name__)})"


def predicate(function: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]) -> Mask:
    """A mask from `function(b, h, i, j) -> bool` on broadcasting tensors of batch, head, query and key position.

    Nothing is known about it, so planning evaluates every tile that the rest of the expression leaves open.
    Raises, when used: TypeError where it does not return booleans; RuntimeError where it branches on its indices.
    """
    if not callable(function):
        raise ValueError(f"predicate needs a function (b, h, i, j) -> bool; got {type(function).__name__}.")
    return Predicate(function)
