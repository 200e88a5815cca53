"""What decoding keeps of the tokens it has seen, as a value: appending gives another one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regard.caches.base import beside, storage_bytes
from regard.errors import ShapeError


@dataclass(frozen=True, eq=False)
class Held:
    """Tensors with one entry a token, such as keys and values, and the tokens' positions.

    With `size` only the last `size` tokens stay, and the first `sinks` besides. What one step's queries may look at is
    everything held before the step and the step's own tokens.

    Shapes: parts [B, any, M, any]; positions [B|1, M], -1 for padding.
    Raises: ValueError where size < 1 or sinks < 0.
    """

    size: int | None = None
    sinks: int = 0
    parts: tuple[Tensor, ...] = ()
    positions: Tensor | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"Held.size must be at least 1; got {self.size}.")
        if self.sinks < 0:
            raise ValueError(f"Held.sinks must be at least 0; got {self.sinks}.")

    def append(self, parts: tuple[Tensor, ...], positions: Tensor) -> Held:
        """The value with the next tokens.

        Raises: ShapeError where they do not continue what is held.
        """
        if self.positions is None:
            return replace(self, parts=parts, positions=positions)
        if [p.shape[:2] + p.shape[3:] for p in parts] != [p.shape[:2] + p.shape[3:] for p in self.parts]:
            came, held = ([list(p.shape) for p in some] for some in (parts, self.parts))
            raise ShapeError(f"These tokens do not continue what is held: {came} after {held}.")
        kept = self.trimmed()
        assert kept.positions is not None
        grown = tuple(torch.cat(pair, 2) for pair in zip(kept.parts, parts, strict=True))
        return replace(kept, parts=grown, positions=beside(kept.positions, positions))

    def trimmed(self) -> Held:
        """The value without the tokens that its size leaves no room for."""
        M = 0 if self.positions is None else self.positions.shape[1]
        if self.size is None or self.positions is None or self.size + self.sinks >= M:
            return self
        if self.sinks == 0:
            stay = torch.arange(M - self.size, M, device=self.positions.device)
        else:
            # A row's first tokens are the first that are real; rows that differ by padding keep slots, not positions.
            old = self.positions[:, : M - self.size]
            sink = ((old >= 0) & (old < self.sinks)).any(0).nonzero()[:, 0]
            stay = torch.cat([sink, torch.arange(M - self.size, M, device=old.device)])
        return replace(self, parts=tuple(p[:, :, stay] for p in self.parts), positions=self.positions[:, stay])

    def reorder(self, index: Tensor) -> Held:
        """The value for the batch's rows `index`, which may repeat."""
        if self.positions is None:
            return self
        shared = self.positions.shape[0] == 1
        places = self.positions if shared else self.positions[index]
        return replace(self, parts=tuple(p[index] for p in self.parts), positions=places)

    @property
    def nbytes(self) -> int:
        """Bytes of memory held."""
        return storage_bytes(self.parts)
