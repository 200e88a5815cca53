"""What mixes a token's own states over the layers of a model: from what came before to what is read next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, final

import torch
from torch import Tensor

from regard.errors import ShapeError
from regard.mechanisms.slot import Slot


@dataclass(frozen=True, eq=False)
class DepthState:
    """A depth's state between two sub-layers: how many sources it has seen, and what it keeps of them."""

    seen: int
    inner: Any


class Depth(Slot):
    """A token's sources, one after another along the layers, to what its next sub-layer reads; tokens never meet.

    The first source is the model's input; what the others are, `feeds` says: each sub-layer's output f(h), or the
    state h + f(h). A subclass sets `dim` and defines `begin` and `advance`, source by source, and `read` where all of
    them can be done at once; `layers` is how many sources it has parameters for (None: any number). What a spec claims
    is claimed along the sources: `causal` that later ones are not read, `decode` that one may follow another, and the
    exponents of `cost` are of their number. Padding and packed documents need nothing, since tokens never meet.
    """

    feeds: ClassVar[Literal["outputs", "states"]] = "outputs"
    dim: int
    layers: int | None = None

    @final
    def forward(self, sources: Tensor | Sequence[Tensor]) -> Tensor:
        """What is read after each source, from the sources up to it.

        Shapes: sources [B, N, S, C], or S tensors [B, N, C]; result [B, N, S, C].
        Raises: ValueError where there is no source; ShapeError where they do not fit together or are too many.
        """
        name = type(self).__name__
        if not isinstance(sources, Tensor):
            shapes = [list(one.shape) for one in sources]
            if not shapes:
                raise ValueError(f"{name} got no source. Give the model's input first.")
            if any(shape != shapes[0] for shape in shapes):
                raise ShapeError(f"{name} takes sources of one shape; got {', '.join(map(str, shapes))}.")
            sources = torch.stack(list(sources), -2)
        if sources.dim() != 4 or sources.shape[-1] != self.dim:
            raise ShapeError(f"{name} takes sources [B, N, S, {self.dim}]; got {list(sources.shape)}.")
        if sources.shape[2] == 0:
            raise ValueError(f"{name} got no source. Give the model's input first.")
        self._reach(sources.shape[2])
        return self.read(sources)

    def read(self, sources: Tensor) -> Tensor:
        """What is read after each of the sources [B, N, S, C]."""
        inner, reads = self.begin(), []
        for at in range(sources.shape[2]):
            out, inner = self.advance(inner, sources[:, :, at], at)
            reads.append(out)
        return torch.stack(reads, 2)

    @final
    def init_state(self) -> DepthState:
        """The state before the first source."""
        return DepthState(0, self.begin())

    @final
    def step(self, state: DepthState, source: Tensor) -> tuple[Tensor, DepthState]:
        """What is read after one more source, and the state after it; `state` is left as it was.

        Shapes: source and result [B, N, C].
        Raises: ShapeError where the source does not fit, or is one too many.
        """
        if source.dim() != 3 or source.shape[-1] != self.dim:
            raise ShapeError(f"{type(self).__name__} takes a source [B, N, {self.dim}]; got {list(source.shape)}.")
        self._reach(state.seen + 1)
        out, inner = self.advance(state.inner, source, state.seen)
        return out, DepthState(state.seen + 1, inner)

    def begin(self) -> Any:
        """What is kept before the first source: tensors with the batch first, later, and None at the start."""
        return None

    def advance(self, inner: Any, source: Tensor, at: int) -> tuple[Tensor, Any]:
        """What is read after the source [B, N, C] number `at`, and what is kept after it."""
        raise NotImplementedError

    def _reach(self, count: int) -> None:
        if self.layers is not None and count > self.layers:
            raise ShapeError(
                f"{type(self).__name__} has parameters for {self.layers} sources and got {count}. Type "
                f"layers={count}: one for the model's input and one for each sub-layer."
            )


def wide(x: Tensor) -> torch.dtype:
    """The dtype to compute weights in: at least float32."""
    return torch.promote_types(x.dtype, torch.float32)
