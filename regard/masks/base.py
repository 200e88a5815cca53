"""Masks as expressions: who may look where, as predicates on positions with an exact tile calculus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from regard.errors import ShapeError
from regard.masks.bounds import EVERY_PAIR, UNKNOWN, Array, Bounds
from regard.masks.grid import Grid, positions
from regard.masks.patterns import Spot
from regard.masks.plan import TilePlan, lead_axes, plan


class Mask:
    """A predicate `mask(i, j)` on a query's and a key's position; True = the query may look at the key.

    Combine with `&`, `|` and `~`. Negative positions are empty slots: they see nothing and are never seen.
    """

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Answer elementwise for broadcasting int64 tensors of batch index, head index, query and key position."""
        raise NotImplementedError

    def bounds(self, grid: Grid) -> Bounds:
        """What is certain about each tile; tiles left undecided are settled by evaluating them."""
        return UNKNOWN

    def signature(self, spot: Spot) -> list[Array]:
        """Integers [K] that fix the patterns of solid tiles, together with their sizes."""
        known = spot.grid.bounds(self)
        down, across = spot.grid.shape
        own = ((spot.b * (int(spot.h.max()) + 1) + spot.h) * down + spot.r) * across + spot.c
        return [np.where(spot.tiles(known.must), -1, np.where(spot.tiles(known.may), own, -2))]

    @property
    def parts(self) -> tuple[Mask, ...]:
        """The masks that this one is made of."""
        return ()

    @cached_property
    def axes(self) -> tuple[int, int]:
        """Sizes of the batch and head axes that the mask itself has; 1 where it does not vary."""
        return joint_axes(*self.parts)

    @cached_property
    def structural(self) -> bool:
        """Whether equal masks are the same mask: it holds numbers only, no tensors or functions."""
        return bool(self.parts) and all(part.structural for part in self.parts)

    @cached_property
    def grain(self) -> tuple[int, int] | None:
        """Queries and keys to a cell where pairs were chosen cell by cell, the finest of the parts'; else None."""
        found = [part.grain for part in self.parts if part.grain is not None]
        return (min(rows for rows, _ in found), min(cols for _, cols in found)) if found else None

    def ready(self) -> None:
        """Compute once what questions by scalars need; `flex()` calls it, as nothing may be kept while tracing."""
        for part in self.parts:
            part.ready()

    def __call__(self, i: Tensor, j: Tensor) -> Tensor:
        """Answer for position tensors whose leading axes, if any, are batch and head."""
        most = max(i.dim(), j.dim())
        return self.at(_leading(i, j, most, 4), _leading(i, j, most, 3), i, j)

    def __and__(self, other: Mask) -> Mask:
        return Both(self, other) if isinstance(other, Mask) else NotImplemented

    def __or__(self, other: Mask) -> Mask:
        return Either(self, other) if isinstance(other, Mask) else NotImplemented

    def __invert__(self) -> Mask:
        return Negated(self)

    def dense(
        self,
        N: int,
        M: int | None = None,
        *,
        batch: int = 1,
        heads: int = 1,
        q_positions: Tensor | None = None,
        k_positions: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """The whole mask.

        Shapes: [B, H, N, M] boolean, with axes of 1 where neither the mask nor the positions vary.
        """
        M = N if M is None else M
        if device is None:
            device = next((given.device for given in (q_positions, k_positions) if given is not None), None)
        i = positions(q_positions, N, M - N, "q_positions", device).unsqueeze(-1)
        j = positions(k_positions, M, 0, "k_positions", device).unsqueeze(-2)
        B, H = lead_axes(self, batch, heads, i.shape, j.shape, wanted=True)
        b = torch.arange(B, device=i.device).view(-1, 1, 1, 1)
        h = torch.arange(H, device=i.device).view(1, -1, 1, 1)
        seen = self.at(b, h, i.clamp(min=0), j.clamp(min=0))
        if q_positions is not None or N > M:
            seen = seen & (i >= 0)
        if k_positions is not None:
            seen = seen & (j >= 0)
        return seen.expand(*seen.shape[:2], N, M)

    def tiles(
        self,
        N: int,
        M: int | None = None,
        size: int | tuple[int, int] = 128,
        *,
        batch: int = 1,
        heads: int = 1,
        q_positions: Tensor | None = None,
        k_positions: Tensor | None = None,
        device: torch.device | str | None = None,
    ) -> TilePlan:
        """Every tile classified exactly as EMPTY, PARTIAL or FULL, in time that grows with the number of tiles.

        Raises: ValueError where the size is below 1; ShapeError where batch or head axes do not fit together.
        """
        grid = Grid.of(N, N if M is None else M, size, q_positions, k_positions, device)
        return plan(self, grid, batch, heads)

    def count(
        self,
        N: int,
        M: int | None = None,
        size: int | tuple[int, int] = 128,
        *,
        batch: int = 1,
        heads: int = 1,
        q_positions: Tensor | None = None,
        k_positions: Tensor | None = None,
    ) -> float:
        """Visible pairs, averaged over the batch and head axes."""
        given = {"batch": batch, "heads": heads, "q_positions": q_positions, "k_positions": k_positions}
        return self.tiles(N, M, size, **given).count()

    def density(
        self,
        N: int,
        M: int | None = None,
        size: int | tuple[int, int] = 128,
        *,
        batch: int = 1,
        heads: int = 1,
        q_positions: Tensor | None = None,
        k_positions: Tensor | None = None,
    ) -> float:
        """Share of the N x M pairs that is visible."""
        given = {"batch": batch, "heads": heads, "q_positions": q_positions, "k_positions": k_positions}
        return self.tiles(N, M, size, **given).density()

    def flex(self) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The mask as FlexAttention's `mask_mod(b, h, q_idx, kv_idx)`, with positions as indices."""
        self.ready()
        return self.at


def _leading(i: Tensor, j: Tensor, most: int, place: int) -> Tensor:
    if most < place:
        return torch.zeros((), dtype=torch.int64, device=i.device)
    size = max(t.shape[-place] if t.dim() >= place else 1 for t in (i, j))
    shape = [1] * most
    shape[most - place] = size
    return torch.arange(size, device=i.device).view(shape)


def joint_axes(*masks: Mask) -> tuple[int, int]:
    """Sizes of the batch and head axes of several masks together.

    Raises: ShapeError where they differ.
    """
    found = []
    every = [mask.axes for mask in masks]
    if all(axes == (1, 1) for axes in every):
        return 1, 1
    for name, sizes in zip(("batch", "head"), zip(*every, strict=True), strict=True):
        large = {size for size in sizes if size > 1}
        if len(large) > 1:
            shown = " and ".join(f"{mask!r} has {size}" for mask, size in zip(masks, sizes, strict=True) if size > 1)
            raise ShapeError(f"Masks differ in their {name} axes: {shown}. Give all the same size, or 1.")
        found.append(max([1, *sizes]))
    return found[0], found[1]


@dataclass(frozen=True)
class Both(Mask):
    """Pairs that both masks allow."""

    a: Mask
    b: Mask

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return self.a.at(b, h, i, j) & self.b.at(b, h, i, j)

    def bounds(self, grid: Grid) -> Bounds:
        return grid.bounds(self.a) & grid.bounds(self.b)

    def signature(self, spot: Spot) -> list[Array]:
        return self.a.signature(spot) + self.b.signature(spot)

    @property
    def parts(self) -> tuple[Mask, ...]:
        return self.a, self.b

    def __repr__(self) -> str:
        return f"({self.a!r} & {self.b!r})"


@dataclass(frozen=True)
class Either(Mask):
    """Pairs that at least one mask allows."""

    a: Mask
    b: Mask

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return self.a.at(b, h, i, j) | self.b.at(b, h, i, j)

    def bounds(self, grid: Grid) -> Bounds:
        return grid.bounds(self.a) | grid.bounds(self.b)

    def signature(self, spot: Spot) -> list[Array]:
        return self.a.signature(spot) + self.b.signature(spot)

    @property
    def parts(self) -> tuple[Mask, ...]:
        return self.a, self.b

    def __repr__(self) -> str:
        return f"({self.a!r} | {self.b!r})"


@dataclass(frozen=True)
class Negated(Mask):
    """Pairs that the mask does not allow."""

    a: Mask

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return ~self.a.at(b, h, i, j)

    def bounds(self, grid: Grid) -> Bounds:
        return ~grid.bounds(self.a)

    def signature(self, spot: Spot) -> list[Array]:
        return self.a.signature(spot)

    @property
    def parts(self) -> tuple[Mask, ...]:
        return (self.a,)

    def __repr__(self) -> str:
        return f"~{self.a!r}"


@dataclass(frozen=True)
class Everything(Mask):
    """All pairs."""

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return torch.broadcast_tensors(j == j, i)[0]

    def bounds(self, grid: Grid) -> Bounds:
        return EVERY_PAIR

    def signature(self, spot: Spot) -> list[Array]:
        return []

    @cached_property
    def structural(self) -> bool:
        return True

    def __repr__(self) -> str:
        return "everything"


everything = Everything()
