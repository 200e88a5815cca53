"""A second stream through a stack: a fixed sequence that some layers make their queries and keys from."""

from __future__ import annotations

from typing import Protocol, TypeGuard

from torch import Tensor

from regard.mechanisms import Layer


class Reader(Protocol):
    """A layer that reads a fixed sequence: where that starts, and the layer on another one [length, dim].

    Shapes: stream floats [length, dim], or token ids [length] that the model embeds.
    """

    stream: Tensor

    def reading(self, stream: Tensor) -> Layer: ...


def reads(layer: object) -> TypeGuard[Reader]:
    """Whether a layer reads a fixed sequence."""
    return callable(getattr(layer, "reading", None)) and isinstance(getattr(layer, "stream", None), Tensor)
