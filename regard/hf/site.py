"""One attention module as an intervention sees it: what it is, and what one call of it knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from regard.hf.select import Kind, Phase
from regard.masks import Mask, everything
from regard.masks.grid import positions

if TYPE_CHECKING:
    from regard.hf.meter import Record


@dataclass(frozen=True, eq=False)
class Site:
    """An attention module of a model, during one call of it (or before any: then heads and widths may be None).

    `index` counts the sites of the model in the order they run and is the key for what an intervention remembers;
    `layer` is the number within the stack; `base` is what the model itself allows.

    Shapes: `heads` H query heads, `groups` G key/value heads, `width` D of keys, `value_width` E.
    """

    index: int
    name: str
    module: nn.Module
    layer: int
    kind: Kind = "self"
    phase: Phase = "prefill"
    heads: int | None = None
    groups: int | None = None
    width: int | None = None
    value_width: int | None = None
    scale: float | None = None
    base: Mask = everything
    N: int = 0
    M: int = 0
    q_given: Tensor | None = None
    k_given: Tensor | None = None
    device: torch.device | None = None
    record: Record | None = None
    rotation: Callable[[Tensor, Tensor], Tensor] | None = None

    @property
    def layer_index(self) -> int:
        """The layer's number within its stack."""
        return self.layer

    @cached_property
    def q_positions(self) -> Tensor:
        """Positions of the queries, [B|1, N], -1 for padding."""
        return positions(self.q_given, self.N, self.M - self.N, "q_positions", self.device)[:, 0]

    @cached_property
    def k_positions(self) -> Tensor:
        """Positions of the keys, [B|1, M], or [B, H, M] where heads keep different ones; -1 where there is none."""
        found = positions(self.k_given, self.M, 0, "k_positions", self.device)
        return found if found.shape[1] > 1 else found[:, 0]

    def rotate(self, x: Tensor, delta: Tensor) -> Tensor:
        """Queries or keys turned to positions `delta` further on, with the rotary embedding of this model.

        Shapes: x [B, H, N, D]; delta integers [N] or [B, N], negative turns back.
        Raises: Unsupported where this site has no such rotation, with the reason.
        """
        if self.rotation is None:
            from regard.errors import Unsupported

            raise Unsupported(f"{self.name}: keys can only be rotated during a forward pass.")
        return self.rotation(x, delta)

    def count_selection(self, flops: float) -> None:
        """Add to the meter what choosing the keys cost in this call."""
        if self.record is not None:
            self.record.selection_flops += flops
