"""Masks as expressions: who may look where, as predicates on positions with an exact tile calculus."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.masks.grid import Bounds, Grid, positions
from regard.masks.plan import TilePlan, plan


class Mask:
    """A predicate `mask(i, j)` on a query's and a key's position; True = the query may look at the key.

    Combine with `&`, `|` and `~`. Negative positions are empty slots: they see nothing and are never seen.
    """

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        """Answer elementwise for broadcasting int64 tensors of batch index, head index, query and key position."""
        raise NotImplementedError

    def bounds(self, grid: Grid) -> Bounds:
        """What is certain about each tile; tiles left undecided are settled by evaluating them."""
        return grid.unknown

    def keys(self, grid: Grid) -> list[Tensor] | None:
        """Integers that fix a tile's pattern on a contiguous grid, each broadcasting to [B, H, Tq, Tk]; None: unknown."""
        return None

    def __call__(self, i: Tensor, j: Tensor) -> Tensor:
        """Answer for position tensors whose leading axes, if any, are batch and head."""
        axes = max(i.dim(), j.dim())
        b = _leading(i, j, axes, 4)
        h = _leading(i, j, axes, 3)
        return self.at(b, h, i, j)

    def __and__(self, other: Mask) -> Mask:
        return Both(self, other)

    def __or__(self, other: Mask) -> Mask:
        return Either(self, other)

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
        i = positions(q_positions, N, M - N, "q_positions", device).unsqueeze(-1)
        j = positions(k_positions, M, 0, "k_positions", i.device).unsqueeze(-2)
        b = torch.arange(max(batch, i.shape[0], j.shape[0]), device=i.device).view(-1, 1, 1, 1)
        h = torch.arange(max(heads, i.shape[1], j.shape[1]), device=i.device).view(1, -1, 1, 1)
        seen = self.at(b, h, i, j) & (i >= 0) & (j >= 0)
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
        """Every tile classified exactly as EMPTY, PARTIAL or FULL, in time that grows with the number of tiles."""
        grid = Grid.of(N, N if M is None else M, size, q_positions, k_positions, device)
        return plan(self, grid, batch, heads)

    def count(self, N: int, M: int | None = None, **where: object) -> float:
        """Visible pairs, averaged over the batch and head axes."""
        return self.tiles(N, M, **where).count()  # type: ignore[arg-type]

    def density(self, N: int, M: int | None = None, **where: object) -> float:
        """Share of the N x M pairs that is visible."""
        return self.count(N, M, **where) / (N * (N if M is None else M))

    def flex(self) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
        """The mask as FlexAttention's `mask_mod(b, h, q_idx, kv_idx)`."""
        return self.at


def _leading(i: Tensor, j: Tensor, axes: int, place: int) -> Tensor:
    size = max(t.shape[-place] if t.dim() >= place else 1 for t in (i, j))
    shape = [1] * axes
    if axes >= place:
        shape[axes - place] = size
    return torch.arange(size, device=i.device).view(shape) if axes >= place else i.new_zeros(())


def _joined(a: list[Tensor] | None, b: list[Tensor] | None) -> list[Tensor] | None:
    return None if a is None or b is None else a + [t for t in b if not any(t is s for s in a)]


@dataclass(frozen=True, eq=False)
class Both(Mask):
    """Pairs that both masks allow."""

    a: Mask
    b: Mask

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return self.a.at(b, h, i, j) & self.b.at(b, h, i, j)

    def bounds(self, grid: Grid) -> Bounds:
        return self.a.bounds(grid) & self.b.bounds(grid)

    def keys(self, grid: Grid) -> list[Tensor] | None:
        return _joined(self.a.keys(grid), self.b.keys(grid))

    def __repr__(self) -> str:
        return f"({self.a!r} & {self.b!r})"


@dataclass(frozen=True, eq=False)
class Either(Mask):
    """Pairs that at least one mask allows."""

    a: Mask
    b: Mask

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return self.a.at(b, h, i, j) | self.b.at(b, h, i, j)

    def bounds(self, grid: Grid) -> Bounds:
        return self.a.bounds(grid) | self.b.bounds(grid)

    def keys(self, grid: Grid) -> list[Tensor] | None:
        return _joined(self.a.keys(grid), self.b.keys(grid))

    def __repr__(self) -> str:
        return f"({self.a!r} | {self.b!r})"


@dataclass(frozen=True, eq=False)
class Negated(Mask):
    """Pairs that the mask does not allow."""

    a: Mask

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return ~self.a.at(b, h, i, j)

    def bounds(self, grid: Grid) -> Bounds:
        return ~self.a.bounds(grid)

    def keys(self, grid: Grid) -> list[Tensor] | None:
        return self.a.keys(grid)

    def __repr__(self) -> str:
        return f"~{self.a!r}"


@dataclass(frozen=True, eq=False)
class Everything(Mask):
    """All pairs."""

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return (i == i) & (j == j)

    def bounds(self, grid: Grid) -> Bounds:
        return grid.certain

    def keys(self, grid: Grid) -> list[Tensor] | None:
        return []

    def __repr__(self) -> str:
        return "everything"


everything = Everything()
