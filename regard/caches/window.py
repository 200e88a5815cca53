"""The cache that keeps the first tokens and the last ones, in constant memory."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.caches.base import CacheLayer, Kept, beside
from regard.caches.dense import grown
from regard.caches.padding import Lead, counted, numbered, placed
from regard.errors import RegardError


class Window(CacheLayer):
    """The keys at the first `sinks` positions of each row and the last `size` tokens.

    Until more than `size` tokens came, everything is kept as it is. From then on there are `sinks + size` slots: the
    sinks, then a ring in which token t lies at `t % size`. A chunk's queries get all keys that were held before it and
    the whole chunk; what they may look at is the mask's to say. Rows may be padded: padding is never kept as a sink.

    Raises: ValueError where size < 1 or sinks < 0.
    """

    def __init__(self, size: int, sinks: int = 0) -> None:
        if size < 1:
            raise ValueError(f"Window.size must be at least 1; got {size}.")
        if sinks < 0:
            raise ValueError(f"Window.sinks must be at least 0; got {sinks}.")
        self.size, self.sinks = size, sinks
        self.reset()

    def reset(self) -> None:
        self.seen = 0
        self._keys: Tensor | None = None
        self._values: Tensor | None = None
        self._index: Tensor | None = None  # token number in each slot [B|1, S], -1 for padding and empty slots
        self._lead: Lead | None = None
        self._ring = False

    def update(self, keys: Tensor, values: Tensor, real: Tensor | None = None) -> Kept:
        start, N = self.seen, keys.shape[2]
        self._lead = counted(self._lead, real, start)
        chunk = numbered(start, N, real if self._lead is not None else None, keys.device)
        self.seen += N
        if self._ring and N == 1:
            return self._kept(*self._write(keys, values, chunk), chunk)
        held = grown(self._keys, keys), grown(self._values, values)
        index = chunk if self._index is None else beside(self._index, chunk)
        natural = not self._ring and self._lead is None
        if self.seen > self.size:
            self._keep(*held, index)
        else:
            (self._keys, self._values), self._index = held, index
        return Kept(*held) if natural else self._kept(*held, index, chunk)

    def _kept(self, keys: Tensor, values: Tensor, index: Tensor, chunk: Tensor) -> Kept:
        lead = None if self._lead is None else self._lead.count
        return Kept(keys, values, placed(index, self._lead), placed(chunk, self._lead), lead)

    def _write(self, keys: Tensor, values: Tensor, chunk: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Put one token over the one that leaves the window; gives keys, values and token numbers."""
        held_keys, held_values, index = self._held()
        token = self.seen - 1
        slot = self.sinks + token % self.size
        graph = torch.is_grad_enabled() and (keys.requires_grad or held_keys.requires_grad)
        if graph or (held_keys.is_inference() and not torch.is_inference_mode_enabled()):
            # The last step's tensors may still be needed.
            held_keys, held_values, index = held_keys.clone(), held_values.clone(), index.clone()
        if chunk.shape[0] > index.shape[0]:
            index = index.expand(chunk.shape[0], -1).clone()
        # The token that leaves the window may be among its row's first ones: then it moves to the sinks.
        if self._lead is None:
            place = token - self.size
            if 0 <= place < self.sinks:
                for held in (held_keys, held_values, index[:, None]):
                    held[:, :, place] = held[:, :, slot]
        elif self.sinks:
            places = token - self.size - self._lead.count
            rows = ((places >= 0) & (places < self.sinks)).nonzero()[:, 0]
            for held in (held_keys, held_values, index[:, None]):
                held[rows, :, places[rows]] = held[rows, :, slot]
        held_keys[:, :, slot], held_values[:, :, slot] = keys[:, :, 0], values[:, :, 0]
        index[:, slot] = chunk[:, 0]
        self._keys, self._values, self._index = held_keys, held_values, index
        return held_keys, held_values, index

    def _held(self) -> tuple[Tensor, Tensor, Tensor]:
        assert self._keys is not None
        assert self._values is not None
        assert self._index is not None
        return self._keys, self._values, self._index

    def _keep(self, keys: Tensor, values: Tensor, index: Tensor) -> None:
        """Choose what stays out of [B, G, L, D] with token numbers [B|1, L], in slots of its own."""
        slots = self.sinks + self.size
        place = placed(index, self._lead)
        index = index.expand(place.shape[0], -1)
        window = index >= self.seen - self.size
        sink = (place >= 0) & (place < self.sinks) & ~window
        target = torch.where(window, self.sinks + index % self.size, torch.where(sink, place, slots))
        target = torch.where(index < 0, slots, target)
        order = torch.arange(index.shape[1], device=index.device).expand_as(index)
        source = torch.full((index.shape[0], slots + 1), -1, dtype=torch.int64, device=index.device)
        source = source.scatter(1, target, order)[:, :slots]
        taken = source.clamp(min=0)
        self._keys, self._values = _picked(keys, taken), _picked(values, taken)
        self._index = torch.where(source < 0, -1, index.gather(1, taken))
        self._ring = True

    def select(self, rows: Tensor) -> None:
        if self._keys is None or self._values is None or self._index is None:
            return
        self._keys, self._values = self._keys[rows], self._values[rows]
        self._index = self._index if self._index.shape[0] == 1 and self._lead is None else self._index[rows]
        self._lead = None if self._lead is None else self._lead.select(rows)

    def crop(self, length: int) -> None:
        if length >= self.seen or self._keys is None or self._values is None or self._index is None:
            return
        if self._ring:
            raise RegardError(
                f"This cache keeps {self.sinks} + {self.size} tokens and has let others go: it can't be cut back from "
                f"{self.seen} tokens to {length}. Start again from the prompt."
            )
        self._keys, self._values = self._keys[:, :, :length].clone(), self._values[:, :, :length].clone()
        self._index, self.seen = self._index[:, :length].clone(), length

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(t for t in (self._keys, self._values, self._index) if t is not None)


def _picked(held: Tensor, source: Tensor) -> Tensor:
    """The slots `source` [B|1, S] of [B, G, L, D]."""
    if source.shape[0] == 1:
        return held[:, :, source[0]]
    return held.gather(2, source[:, None, :, None].expand(-1, held.shape[1], -1, held.shape[3]))
