"""One attention call, checked once, as every engine receives it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from regard.edits import Edit, Normaliser
from regard.errors import ShapeError
from regard.masks import Mask, everything
from regard.masks.grid import positions


@dataclass(frozen=True)
class View:
    """Pairs under `where` are scored with this query (and key), such as ones rotated to other positions.

    Shapes: q [B, H, N, D]; k [B, G, M, D] or None for the keys of the call.
    """

    where: Mask
    q: Tensor
    k: Tensor | None = None


@dataclass(frozen=True)
class Rows:
    """Complete rows of attention weights for a block of queries.

    Shapes: weights [B, H, n, m] for the queries `start .. start + n` and the key slots `first .. first + m`; keys
    outside that range have weight 0. `seen` is the mask, broadcastable to weights.
    """

    weights: Tensor
    start: int
    first: int
    seen: Tensor


@dataclass(frozen=True, eq=False)
class Problem:
    """One call of `attend`.

    Shapes: q [B, H, N, D], k [B, G, M, D], v [B, G, M, E] with H a multiple of G; positions [B|1, H|1, N or M] or None.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    where: Mask
    edits: tuple[Edit, ...]
    scale: float
    normaliser: Normaliser
    q_positions: Tensor | None
    k_positions: Tensor | None
    views: tuple[View, ...]
    rows: Callable[[Rows], Tensor | None] | None
    state: bool

    @property
    def B(self) -> int:
        return self.q.shape[0]

    @property
    def H(self) -> int:
        return self.q.shape[1]

    @property
    def G(self) -> int:
        return self.k.shape[1]

    @property
    def N(self) -> int:
        return self.q.shape[2]

    @property
    def M(self) -> int:
        return self.k.shape[2]

    @property
    def explicit(self) -> bool:
        """Whether positions were given."""
        return self.q_positions is not None or self.k_positions is not None

    @property
    def grad(self) -> bool:
        """Whether the result must carry a gradient to q, k or v."""
        return torch.is_grad_enabled() and any(t.requires_grad for t in (self.q, self.k, self.v))

    @property
    def extra_grad(self) -> bool:
        """Whether an edit or the normaliser has tensors that need a gradient."""
        held = [getattr(part, "needs_grad", False) for part in (*self.edits, self.normaliser)]
        return torch.is_grad_enabled() and any(held)

    @cached_property
    def i(self) -> Tensor:
        """Query positions [B|1, H|1, N]."""
        return positions(self.q_positions, self.N, self.M - self.N, "q_positions", self.q.device)

    @cached_property
    def j(self) -> Tensor:
        """Key positions [B|1, H|1, M]."""
        return positions(self.k_positions, self.M, 0, "k_positions", self.q.device)

    def parts(self) -> list[Problem]:
        """The disjoint sub-problems whose states merge to this one: the rest, then one for each view."""
        rest, parts = self.where, []
        for view in self.views:
            part = replace(self, q=view.q, k=self.k if view.k is None else view.k, where=rest & view.where, views=())
            parts.append(part)
            rest = rest & ~view.where
        return [replace(self, where=rest, views=()), *parts]


def problem(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    where: Mask | None,
    edits: Sequence[Edit],
    scale: float | None,
    normaliser: Normaliser,
    q_positions: Tensor | None,
    k_positions: Tensor | None,
    views: Sequence[View],
    rows: Callable[[Rows], Tensor | None] | None,
    state: bool,
) -> Problem:
    """Check one call's shapes and settings; raises ShapeError or ValueError with what came and what is allowed."""
    if not (q.dim() == k.dim() == v.dim() == 4):
        raise ShapeError(
            f"attend takes q [B, H, N, D], k [B, G, M, D], v [B, G, M, E]; got {list(q.shape)}, {list(k.shape)}, "
            f"{list(v.shape)}."
        )
    if not (q.is_floating_point() and q.dtype == k.dtype == v.dtype):
        raise ValueError(f"q, k and v must share one floating-point dtype; got {q.dtype}, {k.dtype}, {v.dtype}.")
    if q.shape[0] != k.shape[0] or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3]:
        raise ShapeError(
            "q [B, H, N, D], k [B, G, M, D] and v [B, G, M, E] must agree in B, in D, and k and v in G and M; got "
            f"{list(q.shape)}, {list(k.shape)}, {list(v.shape)}."
        )
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ShapeError(f"The {q.shape[1]} query heads must be a multiple of the {k.shape[1]} key/value heads.")
    if where is not None and not isinstance(where, Mask):
        raise ValueError(f"where must be a mask such as regard.masks.causal(), or None; got {type(where).__name__}.")
    for view in views:
        if view.q.shape != q.shape or (view.k is not None and view.k.shape != k.shape):
            raise ShapeError(f"A view's q and k must have the shapes of the call's; got {list(view.q.shape)}.")
    return Problem(
        q,
        k,
        v,
        everything if where is None else where,
        tuple(edits),
        1 / math.sqrt(q.shape[-1]) if scale is None else float(scale),
        normaliser,
        q_positions,
        k_positions,
        tuple(views),
        rows,
        state,
    )
