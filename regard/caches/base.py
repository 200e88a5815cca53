"""What every cache of keys and values promises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Kept:
    """The keys that a chunk of queries may look at, and where everything is.

    Shapes: keys [B, G, M, D], values [B, G, M, E]; `k_positions` [B|1, M] or [B, G, M] and `q_positions` [B|1, N] are
    counted from a row's first real token, -1 for padding and empty slots; both None where slot s holds position s and
    the queries are the last N. `lead` [B]: how many padding tokens came before each row's first; None for none.
    """

    keys: Tensor
    values: Tensor
    k_positions: Tensor | None = None
    q_positions: Tensor | None = None
    lead: Tensor | None = None


class CacheLayer:
    """The keys and values that one attention module keeps. `seen` counts every token that came, kept or not."""

    seen: int = 0
    evicts: bool = True  # whether tokens may be gone, so that no state can be taken back

    def update(self, keys: Tensor, values: Tensor, real: Tensor | None = None) -> Kept:
        """Take in the next tokens and say what their queries may look at.

        Shapes: keys [B, G, N, D], values [B, G, N, E]; `real` boolean [B, N], False for padding; None: all real.
        """
        raise NotImplementedError

    def select(self, rows: Tensor) -> None:
        """Keep these rows of the batch, in this order; rows may repeat."""
        raise NotImplementedError

    def crop(self, length: int) -> None:
        """Forget all but the first `length` tokens. Raises: RegardError where some of them are gone."""
        raise NotImplementedError

    def reset(self) -> None:
        """Forget everything."""
        raise NotImplementedError

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every tensor that is held."""
        raise NotImplementedError

    @property
    def nbytes(self) -> int:
        """Bytes of memory held, counted by storage, so that a view of a large tensor counts as all of it."""
        return storage_bytes(self.tensors)


def beside(a: Tensor, b: Tensor) -> Tensor:
    """Positions [B|1, N] and [B|1, n] as [B|1, N + n]: rows that are shared become each row's own where they must."""
    rows = max(a.shape[0], b.shape[0])
    return torch.cat([a.expand(rows, -1), b.expand(rows, -1)], 1)


def storage_bytes(tensors: tuple[Tensor, ...] | list[Tensor]) -> int:
    """Bytes of the different storages behind tensors."""
    held = {(t.device, t.untyped_storage().data_ptr()): t.untyped_storage().nbytes() for t in tensors}
    return sum(held.values())
