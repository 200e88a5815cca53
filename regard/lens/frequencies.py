"""Which rotary frequencies a model uses, which heads look at fixed offsets, and what is lost without some pairs."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor

from regard.errors import RegardError, ShapeError
from regard.hf import Intervention, Site, Sites
from regard.ops import Rows

_PREFILL = Sites(kind="self", phase="prefill")


class FrequencyUsage(Intervention):
    """How long queries and keys are in each pair of features that turns together, fastest pair first.

    A pair adds at most |q_m| |k_m| to a score. Turning keeps lengths, so it does not matter that they are seen turned.
    Pair m is features m and m + D / 2, or 2m and 2m + 1 where `interleaved`. Means are over the real tokens of every
    prefill; what is decoded is not counted.

    Shapes: `q`, `k` and `both` [layers, H, D / 2]; keys of a group stand for each of its query heads.
    Raises: ShapeError for heads of odd width; RegardError where nothing was read yet.
    Source: "Round and Round We Go!", 2410.06205, section 4.
    """

    sites = _PREFILL

    def __init__(self, *, interleaved: bool = False) -> None:
        self.interleaved = interleaved
        self._sums: dict[int, Tensor] = {}  # by layer: [3, H, D / 2]
        self._tokens: dict[int, int] = {}

    def inputs(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> None:
        N = q.shape[2]
        lengths = [self._lengths(x) for x in (q, k[:, :, -N:].repeat_interleave(q.shape[1] // k.shape[1], 1))]
        real = (site.q_positions >= 0).expand(q.shape[0], -1)[:, None, :, None]
        found = torch.stack([torch.where(real, x, 0.0).sum((0, 2)) for x in (*lengths, lengths[0] * lengths[1])]).cpu()
        self._sums[site.layer] = self._sums.get(site.layer, 0.0) + found
        self._tokens[site.layer] = self._tokens.get(site.layer, 0) + int(real.sum())

    def _lengths(self, x: Tensor) -> Tensor:
        """[B, H, N, D] to lengths of pairs [B, H, N, D / 2]."""
        if x.shape[-1] % 2:
            raise ShapeError(f"FrequencyUsage pairs features, so heads need an even width; got {x.shape[-1]}.")
        pairs = (-1, 2) if self.interleaved else (2, -1)
        return x.detach().double().unflatten(-1, pairs).norm(dim=-1 if self.interleaved else -2)

    @property
    def q(self) -> Tensor:
        """Mean |q_m|."""
        return self._means(0)

    @property
    def k(self) -> Tensor:
        """Mean |k_m|."""
        return self._means(1)

    @property
    def both(self) -> Tensor:
        """Mean |q_m| |k_m| of the same token."""
        return self._means(2)

    def _means(self, which: int) -> Tensor:
        return _stacked(self, {n: x[which] / max(1, self._tokens[n]) for n, x in self._sums.items()})


class PositionalHeads(Intervention):
    """How much weight each head gives to the token itself and to the one before it.

    Means are over the real tokens of every prefill; tokens with none before them have no previous one.

    Shapes: `own` and `previous` [layers, H].
    Raises: RegardError where nothing was read yet.
    Source: "Round and Round We Go!", 2410.06205, section 5.
    """

    sites = _PREFILL

    def __init__(self) -> None:
        self._sums: dict[int, list[Tensor]] = {}
        self._tokens: dict[int, list[int]] = {}

    def weights(self, site: Site, rows: Rows) -> None:
        at, keys = site.q_positions, site.k_positions
        if keys.dim() == 3:
            raise RegardError("PositionalHeads reads models whose heads all keep the same keys; apply it alone.")
        n, m = rows.weights.shape[2:]
        i = at[:, rows.start : rows.start + n, None]
        j = keys[:, None, rows.first : rows.first + m]
        sums, counts = self._sums.setdefault(site.layer, []), self._tokens.setdefault(site.layer, [])
        for back in (0, 1):
            chosen = ((j == i - back) & (j >= 0) & (i >= back)).expand(rows.weights.shape[0], -1, -1)[:, None]
            found = torch.where(chosen, rows.weights.detach().double(), 0.0).sum((0, 2, 3)).cpu()
            count = int((i >= back).expand(rows.weights.shape[0], -1, -1).sum())
            if len(sums) <= back:
                sums.append(found)
                counts.append(count)
            else:
                sums[back], counts[back] = sums[back] + found, counts[back] + count

    @property
    def own(self) -> Tensor:
        """Mean A[i, i]."""
        return self._means(0)

    @property
    def previous(self) -> Tensor:
        """Mean A[i, i - 1]."""
        return self._means(1)

    def found(self, least: float = 0.5) -> list[tuple[int, int]]:
        """The heads, as (row of `own`, head), that give more than `least` to the token itself or to the one before."""
        return [tuple(pair) for pair in (torch.maximum(self.own, self.previous) > least).nonzero().tolist()]  # type: ignore[misc]

    def _means(self, back: int) -> Tensor:
        return _stacked(self, {n: x[back] / max(1, self._tokens[n][back]) for n, x in self._sums.items()})


class MutePairs(Intervention):
    """Scores without some pairs of features, in some heads: their queries are zero there.

    `pairs` counts from the fastest, 0. `heads` names query heads by layer; None mutes the pairs everywhere. What is
    left out gets no scaling in its place.

    Raises: ValueError for a pair that a head does not have.
    Source: "Round and Round We Go!", 2410.06205, section 5.
    """

    def __init__(
        self,
        pairs: Collection[int],
        *,
        heads: Mapping[int, Collection[int]] | None = None,
        interleaved: bool = False,
    ) -> None:
        self.pairs, self.chosen, self.interleaved = tuple(sorted(set(pairs))), heads, interleaved
        self.sites = Sites(kind="self") if heads is None else Sites(kind="self", layers=tuple(heads))

    def inputs(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        half = q.shape[-1] // 2
        if self.pairs and not (self.pairs[0] >= 0 and self.pairs[-1] < half):
            raise ValueError(
                f"MutePairs.pairs must be from 0 to {half - 1}, since heads are {q.shape[-1]} wide; got {self.pairs}."
            )
        chosen = torch.tensor(self.pairs, dtype=torch.long, device=q.device)
        both = (2 * chosen, 2 * chosen + 1) if self.interleaved else (chosen, chosen + half)
        kept = torch.ones(q.shape[1], q.shape[-1], dtype=torch.bool, device=q.device)
        for head in range(q.shape[1]) if self.chosen is None else self.chosen.get(site.layer, ()):
            kept[head, torch.cat(both)] = False
        return torch.where(kept[:, None], q, 0.0), k, v


def _stacked(what: Intervention, found: Mapping[int, Tensor]) -> Tensor:
    if not found:
        raise RegardError(f"{what.name} has read nothing; run the model under regard.apply(model, it) first.")
    return torch.stack([found[layer] for layer in sorted(found)])
