"""What attention cost in a run: pairs, FLOPs and bytes, for each site and phase."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from regard.hf.select import Phase


@dataclass(eq=False)
class Record:
    """One site in one phase. FLOPs count a multiplication and an addition as two."""

    index: int
    name: str
    layer: int
    phase: Phase
    heads: int
    calls: int = 0
    widths: int = 0
    selection_flops: float = 0.0
    engines: Counter[str] = field(default_factory=Counter)
    _pending: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    _sums: Tensor | None = None

    def add(self, visible: Tensor, allowed: Tensor, widths: int, engine: str) -> None:
        """Count one call: pairs [H] or [1] over the batch, and key width plus value width."""
        self.calls += 1
        self.widths = widths
        self.engines[engine] += 1
        # Adding up waits until someone looks: the counts may still be on their way from a device.
        self._pending.append((visible, allowed))
        if len(self._pending) >= 512:
            self._folded()

    def _folded(self) -> Tensor:
        if self._sums is None:
            self._sums = torch.zeros(2, self.heads, dtype=torch.float64)
        for side in (0, 1):
            for size in {pair[side].numel() for pair in self._pending}:
                held = [pair[side] for pair in self._pending if pair[side].numel() == size]
                self._sums[side] += torch.stack([t.cpu() for t in held]).sum(0)
        self._pending.clear()
        return self._sums

    @property
    def visible(self) -> Tensor:
        """Pairs looked at, float64 [H], summed over the batch and all calls."""
        return self._folded()[0]

    @property
    def allowed(self) -> Tensor:
        """Pairs that the model itself allows, float64 [H], summed over the batch and all calls."""
        return self._folded()[1]

    @property
    def score_flops(self) -> float:
        """FLOPs of scores and weighted sums over the pairs looked at: 2 (D + E) a pair and head."""
        return 2 * self.widths * float(self.visible.sum())

    @property
    def density(self) -> float:
        """Share of the allowed pairs that was looked at; nan where there are none."""
        visible, allowed = self._folded().sum(1).tolist()
        return visible / allowed if allowed else float("nan")


class Meter:
    """The records of a run, and the bytes that its caches hold.

    `kv_bytes` is what keys and values held at the end of the last forward pass, `kv_bytes_peak` the most at the end of
    any.
    """

    def __init__(self, on: bool = True) -> None:
        self.on = on
        self.records: dict[tuple[int, Phase], Record] = {}
        self.kv_bytes = 0
        self.kv_bytes_peak = 0

    def record(self, index: int, name: str, layer: int, phase: Phase, heads: int) -> Record:
        """The record of a site and phase, made where there is none."""
        key = (index, phase)
        if key not in self.records:
            self.records[key] = Record(index, name, layer, phase, heads)
        return self.records[key]

    def held(self, nbytes: int) -> None:
        """Note what caches hold after a forward pass."""
        self.kv_bytes = nbytes
        self.kv_bytes_peak = max(self.kv_bytes_peak, nbytes)

    def select(self, *, phase: Phase | None = None, layer: int | None = None) -> Iterator[Record]:
        """The records of one phase or layer, in the order of the sites."""
        for key in sorted(self.records):
            record = self.records[key]
            if phase in (None, record.phase) and layer in (None, record.layer):
                yield record

    def density(self, *, phase: Phase | None = None, layer: int | None = None) -> float:
        """Share of the pairs allowed by the model that was looked at; nan where nothing ran."""
        found = list(self.select(phase=phase, layer=layer))
        visible = sum(float(record.visible.sum()) for record in found)
        allowed = sum(float(record.allowed.sum()) for record in found)
        return visible / allowed if allowed else float("nan")

    def density_by_head(self, *, phase: Phase | None = None) -> dict[str, Tensor]:
        """For each site's module path, the density of every head: {name: [H]}."""
        sums: dict[str, tuple[Tensor, Tensor]] = {}
        for record in self.select(phase=phase):
            before = sums.get(record.name)
            pair = (record.visible, record.allowed)
            sums[record.name] = pair if before is None else (before[0] + pair[0], before[1] + pair[1])
        return {name: visible / allowed for name, (visible, allowed) in sums.items()}

    def score_flops(self, *, phase: Phase | None = None) -> float:
        """FLOPs of scores and weighted sums over the pairs looked at: 2 (D + E) a pair and head."""
        return sum(record.score_flops for record in self.select(phase=phase))

    def selection_flops(self, *, phase: Phase | None = None) -> float:
        """FLOPs that methods said choosing the keys cost."""
        return sum(record.selection_flops for record in self.select(phase=phase))

    def engines(self) -> Counter[str]:
        """How many calls each engine served."""
        return sum((record.engines for record in self.records.values()), Counter())

    def reset(self) -> None:
        """Forget everything counted so far."""
        self.records.clear()
        self.kv_bytes = self.kv_bytes_peak = 0
