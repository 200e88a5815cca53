"""The cache that keeps everything."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.caches.base import CacheLayer, Kept
from regard.caches.padding import Lead, counted, numbered, placed


class Dense(CacheLayer):
    """Every key and value, in the order they came."""

    evicts = False

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.seen = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._index: Tensor | None = None  # token numbers [B, M], only where padding came
        self._lead: Lead | None = None

    def update(self, keys: Tensor, values: Tensor, real: Tensor | None = None) -> Kept:
        start, N = self.seen, keys.shape[2]
        self._lead = counted(self._lead, real, start)
        if self._lead is not None:
            before = self._index
            if before is None:
                before = numbered(0, start, None, keys.device).expand(keys.shape[0], -1)
            chunk = numbered(start, N, real, keys.device).expand(keys.shape[0], -1)
            self._index = torch.cat([before, chunk], 1)
        self._keys, self._values = grown(self._keys, keys), grown(self._values, values)
        self.seen += N
        if self._index is None:
            return Kept(self._keys, self._values)
        place = placed(self._index, self._lead)
        lead = None if self._lead is None else self._lead.count
        return Kept(self._keys, self._values, place, place[:, start:], lead)

    def select(self, rows: Tensor) -> None:
        if self._keys is None or self._values is None:
            return
        self._keys, self._values = self._keys[rows], self._values[rows]
        self._index = None if self._index is None else self._index[rows]
        self._lead = None if self._lead is None else self._lead.select(rows)

    def crop(self, length: int) -> None:
        if length >= self.seen or self._keys is None or self._values is None:
            return
        self._keys, self._values = self._keys[:, :, :length].clone(), self._values[:, :, :length].clone()
        self._index = None if self._index is None else self._index[:, :length]
        self.seen = length

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(t for t in (self._keys, self._values, self._index) if t is not None)


def grown(held: Tensor | None, more: Tensor) -> Tensor:
    """Held tokens and new ones in memory of their own, so that no larger tensor is kept alive by a view."""
    return more.clone(memory_format=torch.contiguous_format) if held is None else torch.cat([held, more], 2)
