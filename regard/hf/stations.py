"""The union of what several interventions do at one site."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import and_

import torch
from torch import Tensor

from regard.edits import Edit
from regard.errors import ShapeError, Unsupported
from regard.hf.frame import Frame
from regard.hf.intervention import Intervention, overrides
from regard.hf.site import Site
from regard.masks import Mask, everything, per_head
from regard.ops import Rows, View


@dataclass(frozen=True, eq=False)
class EditOnHeads(Edit):
    """An edit for some query heads."""

    edit: Edit
    chosen: Tensor  # boolean [H]

    @property
    def by_slot(self) -> bool:  # type: ignore[override]
        return self.edit.by_slot

    def at(self, scores: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return torch.where(self.chosen.to(h.device)[h], self.edit.at(scores, b, h, i, j), scores)

    def check(self, B: int, H: int, N: int, M: int) -> None:
        self.edit.check(B, H, N, M)

    @property
    def needs_grad(self) -> bool:
        return self.edit.needs_grad


class Stations:
    """The interventions that act in calls of one site, phase and kind, in the order given."""

    def __init__(self, active: Sequence[Intervention], layer: int) -> None:
        self.active = tuple(active)
        self.layer = layer
        self.inputs = self._with("inputs")
        self.views = self._with("views")
        self.where = self._with("where")
        self.scores = self._with("scores")
        self.weights = self._with("weights")
        self.heads = self._with("heads")
        self.idle = not (self.inputs or self.views or self.where or self.scores or self.weights or self.heads)

    def _with(self, station: str) -> tuple[Intervention, ...]:
        return tuple(i for i in self.active if overrides(i, station))

    def edit_inputs(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v after every intervention."""
        for intervention in self.inputs:
            given = intervention.inputs(site, q, k, v)
            if given is not None:
                _same(intervention, "inputs", tuple(given), (q, k, v))
                q, k, v = given
        return q, k, v

    def mask(self, site: Site, q: Tensor, k: Tensor, base: Frame) -> Mask:
        """What the model allows and every intervention looks at."""
        wheres = []
        for intervention in self.where:
            mask = intervention.where(site, q, k)
            if mask is not None:
                chosen = self._chosen(intervention, q)
                if chosen is not None:
                    mask = per_head([mask if here else everything for here in chosen.tolist()])
                wheres.append(mask)
        # Layers that were given the very same masks share one joined mask, and so what is known of it.
        key = tuple(wheres)
        if key not in base.joined:
            base.joined[key] = reduce(and_, (mask for mask in wheres if mask is not everything), base.where)
        return base.joined[key]

    def edits(self, site: Site, q: Tensor) -> list[Edit]:
        """The edits of every intervention, one after another."""
        found: list[Edit] = []
        for intervention in self.scores:
            given = intervention.scores(site)
            chosen = self._chosen(intervention, q)
            edits = [] if given is None else [given] if isinstance(given, Edit) else given
            found += [edit if chosen is None else EditOnHeads(edit, chosen) for edit in edits]
        return found

    def seen_from(self, site: Site, q: Tensor, k: Tensor) -> Sequence[View]:
        """The views of the one intervention that has any."""
        found = [(i, i.views(site, q, k)) for i in self.views]
        found = [(i, views) for i, views in found if views]
        if len(found) > 1:
            names = " and ".join(i.name for i, _ in found)
            raise Unsupported(f"{site.name}: {names} both score pairs with turned queries or keys; apply one of them.")
        return found[0][1] if found else ()

    def reader(self, site: Site, also: Callable[[Rows], None] | None) -> Callable[[Rows], Tensor | None] | None:
        """What receives rows of weights; None where nobody wants them."""
        if not self.weights and also is None:
            return None

        def read(rows: Rows) -> Tensor | None:
            edited: Tensor | None = None
            for intervention in self.weights:
                given = intervention.weights(site, rows)
                if given is None:
                    continue
                _same(intervention, "weights", (given,), (rows.weights,))
                chosen = self._chosen(intervention, rows.weights)
                edited = given if chosen is None else torch.where(chosen[:, None, None], given, rows.weights)
                rows = replace(rows, weights=edited)
            if also is not None:
                also(rows)
            return edited

        return read

    def edit_heads(self, site: Site, out: Tensor) -> Tensor:
        """The heads' outputs after every intervention."""
        for intervention in self.heads:
            given = intervention.heads(site, out)
            if given is not None:
                _same(intervention, "heads", (given,), (out,))
                chosen = self._chosen(intervention, out)
                out = given if chosen is None else torch.where(chosen[:, None, None], given, out)
        return out

    def _chosen(self, intervention: Intervention, like: Tensor) -> Tensor | None:
        """The heads that an intervention is for, boolean [H]; None: all."""
        heads = intervention.sites.heads_of(self.layer)
        if heads is None:
            return None
        H = like.shape[1]
        if max(heads) >= H:
            raise ValueError(
                f"{intervention.name}: sites.heads names head {max(heads)}, but there are {H} (0 to {H - 1})."
            )
        chosen = torch.zeros(H, dtype=torch.bool, device=like.device)
        chosen[list(heads)] = True
        return chosen


def _same(intervention: Intervention, station: str, given: tuple[Tensor, ...], was: tuple[Tensor, ...]) -> None:
    for now, before in zip(given, was, strict=True):
        if now.shape != before.shape or now.dtype != before.dtype:
            raise ShapeError(
                f"{intervention.name}.{station} must keep shape and dtype; got {list(now.shape)} {now.dtype} for "
                f"{list(before.shape)} {before.dtype}."
            )
