"""One attention call, checked once, as every engine receives it."""

from __future__ import annotations

import functools
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

    Shapes: q [B, H, N, D]; k [B, G, M, D] or None for the call's. Of views that share a pair the first counts.
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
        """Whether the result must carry a gradient to q, k or v, or to a view's."""
        viewed = (t for view in self.views for t in (view.q, view.k) if t is not None)
        return torch.is_grad_enabled() and any(t.requires_grad for t in (self.q, self.k, self.v, *viewed))

    @property
    def extra_grad(self) -> bool:
        """Whether an edit or the normaliser has tensors that need a gradient."""
        held = [getattr(part, "needs_grad", False) for part in (*self.edits, self.normaliser)]
        return torch.is_grad_enabled() and any(held)

    def read(self, rows: Rows) -> Tensor:
        """The weights to use for a block of rows, after `rows=` has seen them.

        Raises: ShapeError where it returns another shape.
        """
        edited = self.rows(rows) if self.rows is not None else None
        if edited is None:
            return rows.weights
        if edited.shape != rows.weights.shape:
            raise ShapeError(f"rows must return weights {list(rows.weights.shape)} or None; got {list(edited.shape)}.")
        return edited

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
            seen, rest = _split(rest, view.where)
            parts.append(replace(self, q=view.q, k=self.k if view.k is None else view.k, where=seen, views=()))
        return [replace(self, where=rest, views=()), *parts]


def _split(where: Mask, view: Mask) -> tuple[Mask, Mask]:
    """The pairs of a mask inside and outside a view's; the same objects for the same masks, so that plans are kept."""
    return _kept_split(where, view) if where.structural and view.structural else (where & view, where & ~view)


@functools.lru_cache(maxsize=64)
def _kept_split(where: Mask, view: Mask) -> tuple[Mask, Mask]:
    return where & view, where & ~view


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
    if not q.shape[-1]:
        raise ShapeError(f"q and k must be at least 1 wide; got q {list(q.shape)}.")
    if not isinstance(edits, Sequence):
        raise ValueError(f"edits must be a sequence such as [Softcap(50.0)]; got {type(edits).__name__}.")
    if rows is not None and not callable(rows):
        raise ValueError(f"rows must be a function of Rows, or None; got {type(rows).__name__}.")
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"scale must be finite; got {scale}.")
    found = Problem(
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
    _check(found)
    return found


def _check(p: Problem) -> None:
    """Raise ShapeError or ValueError where masks, positions, edits, views or the normaliser do not fit q, k and v."""
    masks = {"where": p.where}
    for n, view in enumerate(p.views):
        for name, own, whole in (("q", view.q, p.q), ("k", view.k, p.k)):
            if own is not None and (own.shape != whole.shape or own.dtype != whole.dtype):
                raise ShapeError(
                    f"views[{n}].{name} must be {list(whole.shape)} {whole.dtype} like the call's; "
                    f"got {list(own.shape)} {own.dtype}."
                )
        masks[f"views[{n}].where"] = view.where
    for name, mask in masks.items():
        _check_lead(f"{name}={mask!r}", mask.axes, p)
    for name, given in (("q_positions", p.q_positions), ("k_positions", p.k_positions)):
        if given is not None:
            _check_lead(name, (p.i if name == "q_positions" else p.j).shape[:2], p)
    for edit in p.edits:
        if not isinstance(edit, Edit):
            raise ValueError(f"edits must be score edits such as Softcap(50.0); got {type(edit).__name__} among them.")
        edit.check(p.B, p.H, p.N, p.M)
    if not isinstance(p.normaliser, Normaliser):
        raise ValueError(f"normaliser must be one such as SoftmaxOffByOne(); got {type(p.normaliser).__name__}.")
    p.normaliser.check(p.H)


def _check_lead(name: str, lead: Sequence[int], p: Problem) -> None:
    if lead[0] not in (1, p.B) or lead[1] not in (1, p.H):
        raise ShapeError(
            f"{name} has batch and head axes {list(lead)}, which do not broadcast to B={p.B} and H={p.H}; "
            "give one for each, or 1."
        )
