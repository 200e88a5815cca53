"""Multi-window attention: every head has blocks of a size of its own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.core import Cost, Limit, Source, Spec
from regard.edits import Edit
from regard.errors import ShapeError
from regard.masks import Mask, chunks, everything, per_head, predicate
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer


class MultiWindowAttention(Mixer):
    """Head h looks at its own block of `windows[h]` positions, with a learned bias by distance; at 0 it looks at all.

    Blocks do not overlap: position p is in block p // window. Without `windows` they double from 2, and a quarter of
    the heads, at least one, are global. The last block may be short; with `pad=False` that is an error, as in the
    paper. One number gives all heads the same window. With `shift` blocks begin half a window later, and what is
    before the first is a short one. The first `cls` tokens stay out of the blocks: they see all and all see them.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E].
    Raises: ShapeError where there is not one window for each head; ValueError for a window or `cls` below 0, and for a
    number of keys that a window does not divide where `pad` is False.
    Source: "Masked Autoencoders with Multi-Window Local-Global Attention", 2306.00561, section 3.2; its released code.
    Differs from the paper: the causal form, which looks back inside a block, is not in it; where blocks are shifted,
    the two ends do not see each other at all (a score of -100 in its code).
    """

    spec: ClassVar[Spec] = Spec(
        id="mw_mha",
        slot="mixer",
        source=Source(
            "Masked Autoencoders with Multi-Window Local-Global Attention Are Better Audio Learners",
            "2306.00561",
            "section 3.2",
            authors="Yadav, Sarthak and Theodoridis, Sergios and Hansen, Lars Kai and Tan, Zheng-Hua",
        ),
        what="Every head looks at blocks of a size of its own, from two positions to all.",
        formula="out_i = sum over j with i // w_h == j // w_h of softmax_j(q_i k_j / sqrt(D) + b_h[i - j]) v_j\n"
        "w_h = 0: over all j, without b",
        scores=True,
        cost=Cost(time=2, state=1),
        limits=(
            Limit("multi_window"),
            Limit("multi_window", windows=(1, 3, 5, 0)),
            Limit("multi_window", windows=(1, 3, 8, 0), shift=True),
            Limit("multi_window", windows=(2, 100, 5, 0), shift=True, cls=2),
            Limit("softmax", windows=0),
            Limit("softmax", windows=12, zero=("table",)),
        ),
        variants=(
            ({"windows": (3, 5, 3, 100)}, Cost(time=1, state=1)),
            {"windows": (3, 0, 3, 100), "shift": True},
            {"windows": (4, 0, 2, 5), "cls": 2, "shift": True},
        ),
    )

    def __init__(
        self,
        heads: int,
        *,
        windows: Sequence[int] | int | None = None,
        pad: bool = True,
        shift: bool = False,
        cls: int = 0,
    ) -> None:
        super().__init__()
        if windows is None:
            local = heads - max(1, heads // 4)
            windows = [2 ** (n + 1) for n in range(local)] + [0] * (heads - local)
        self.windows = (windows,) * heads if isinstance(windows, int) else tuple(windows)
        if len(self.windows) != heads:
            raise ShapeError(
                f"MultiWindowAttention.windows must be {heads} numbers, one for each head; got {len(self.windows)}."
            )
        if min(self.windows) < 0:
            raise ValueError(
                f"MultiWindowAttention.windows must be at least 1, or 0 for a global head; got {min(self.windows)}."
            )
        self.pad, self.shift, self.cls = pad, shift, cls
        self.at_least(cls=0)
        sizes = [2 * w - 1 if w else 0 for w in self.windows]
        # One vector holds every head's biases; `starts` says where a head's begin.
        self.starts = [sum(sizes[:h]) for h in range(heads)]
        self.table = nn.Parameter(torch.empty(sum(sizes))) if sum(sizes) else None
        if self.table is not None:
            nn.init.trunc_normal_(self.table, std=0.02)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        M = k.shape[2]
        for w in self.windows:
            if w and (M - self.cls) % w and not self.pad:
                keys = f"{M} keys" if not self.cls else f"{M - self.cls} keys without the first {self.cls}"
                raise ValueError(f"{keys} are not a multiple of the window {w}. Type pad=True, or another window.")
        if self.table is None:
            return call.attend(q, k, v)
        if not call.edits and q.shape[2] == M:
            if call.q_positions is None and call.k_positions is None and call.documents is None:
                return self._each(q, k, v, call, None)
            within = None if self.cls else _counted(call, M)
            if within is not None:
                return self._each(q, k, v, call, within)
        place = _Places(self.cls, None if call.documents is None else call.q_at(M, M) - call.starts)
        made = {w: self._mask(w, place) for w in set(self.windows)}
        edits = (_ByDistance.of(self.table, self.windows, self.starts, place),)
        return call.attend(q, k, v, where=per_head([made[w] for w in self.windows]), edits=edits)

    def _mask(self, w: int, place: _Places) -> Mask:
        """Who looks where in a head of one window."""
        first = self._first(w)
        if not w:
            return everything
        if not first and place.plain:
            return chunks(w)

        def together(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
            i, j = place(b, i), place(b, j)
            return ((i + first) // w == (j + first) // w) | (i < 0) | (j < 0)

        return predicate(together)

    def _first(self, w: int) -> int:
        """How much of the first block lies before the first token."""
        return w - w // 2 if self.shift and w > 1 else 0

    def _each(self, q: Tensor, k: Tensor, v: Tensor, call: Call, within: Tensor | None) -> Tensor:
        """All queries over their own keys: the blocks of a window are one batch, those of packed documents too.

        Shapes: within [B|1, N]: each token's place in its document, -1 for padding; None where that is its slot.
        """
        share = q.shape[1] // k.shape[1]
        outs: list[Tensor | None] = [None] * len(self.windows)
        for w in dict.fromkeys(self.windows):
            heads = [h for h, own in enumerate(self.windows) if own == w]
            groups = [h // share for h in heads]
            one, two, three = q[:, heads], k[:, groups], v[:, groups]
            if not w:
                found = call.attend(one, two, three)
            elif within is None:
                found = self._slots(one, two, three, w, heads, call)
            else:
                found = self._gathered(one, two, three, w, heads, call, within)
            for place, h in enumerate(heads):
                outs[h] = found[:, place]
        return torch.stack([out for out in outs if out is not None], 1)

    def _slots(self, q: Tensor, k: Tensor, v: Tensor, w: int, heads: list[int], call: Call) -> Tensor:
        """Blocks cut by reshaping; the first `cls` tokens are beside all of them."""
        c, first = min(self.cls, q.shape[2]), self._first(w)
        N = q.shape[2] - c
        size = min(w, N + first)
        if not N:
            return _first_tokens(q, k, v, call.causal)
        count = -(-(N + first) // size)
        ends = (0, 0, first, count * size - first - N)
        one, two, three = (F.pad(x[:, :, c:], ends).unflatten(2, (count, size)) for x in (q, k, v))
        slots = torch.arange(count * size, device=q.device)
        seen = ((slots >= first) & (slots < first + N)).view(1, 1, count, 1, size)
        out = self._blocks(one, two, three, seen, w, heads, call.causal, (k[:, :, :c], v[:, :, :c]))
        out = out.flatten(2, 3)[:, :, first : first + N]
        if not c:
            return out
        return torch.cat([_first_tokens(q[:, :, :c], k, v, call.causal), out], 2)

    def _gathered(
        self, q: Tensor, k: Tensor, v: Tensor, w: int, heads: list[int], call: Call, within: Tensor
    ) -> Tensor:
        """Blocks of rows that have padding or several documents: every token is sent to its block, and back."""
        B, N, first = q.shape[0], q.shape[2], self._first(w)
        real = within >= 0
        document = call.starts if call.documents is not None else torch.zeros_like(within)
        block = torch.where(real, document * (N + w) + (within + first) // w, -1).cummax(1).values
        number = (block != F.pad(block, (1, 0), value=-1)[:, :-1]).cumsum(1) - 1
        size, count = min(w, int(within.max()) + 1 + first), int(number.max()) + 1
        # Padding goes to a slot behind the last block.
        slot = torch.where(real, number * size + (within + first) % w, count * size).expand(B, -1)[:, None, :, None]

        def sent(x: Tensor) -> Tensor:
            room = x.new_zeros(B, x.shape[1], count * size + 1, x.shape[3])
            return room.scatter(2, slot.expand_as(x), x)[:, :, :-1].unflatten(2, (count, size))

        there = torch.zeros(B, count * size + 1, dtype=torch.bool, device=q.device)
        there = there.scatter(1, slot[:, 0, :, 0], True)[:, :-1].view(B, 1, count, 1, size)
        out = self._blocks(sent(q), sent(k), sent(v), there, w, heads, call.causal)
        return F.pad(out.flatten(2, 3), (0, 0, 0, 1)).take_along_dim(slot, 2)

    def _blocks(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        seen: Tensor,
        w: int,
        heads: list[int],
        causal: bool,
        beside: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attention inside blocks [B, h, count, size, D], of which `seen` [B|1, 1, count, 1, size] are tokens."""
        at = torch.arange(q.shape[3], device=q.device)
        off = at[:, None] - at
        assert self.table is not None
        start = torch.tensor([self.starts[h] for h in heads], device=q.device)
        bias = self.table[start[:, None, None] + off + w - 1][:, None]
        wide = torch.promote_types(q.dtype, torch.float32)
        scores = (q @ k.transpose(3, 4)).to(wide) * q.shape[-1] ** -0.5 + bias.to(wide)
        if causal:
            seen = seen & (off >= 0)
        # A token is seen by itself at least, so that no row that is kept is empty.
        scores = scores.masked_fill(~seen, torch.finfo(wide).min)
        if beside is None or not beside[0].shape[2]:
            return scores.softmax(-1).to(v.dtype) @ v
        others, values = (x[:, :, None] for x in beside)
        more = (q @ others.transpose(3, 4)).to(wide) * q.shape[-1] ** -0.5
        weights = torch.cat([more, scores], -1).softmax(-1).to(v.dtype)
        return weights[..., : more.shape[-1]] @ values + weights[..., more.shape[-1] :] @ v


def _first_tokens(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    """Attention of the first few queries over all keys."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = (q @ k.transpose(2, 3)).to(wide) * q.shape[-1] ** -0.5
    if causal:
        later = torch.ones(scores.shape[2:], dtype=torch.bool, device=q.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    return scores.softmax(-1).to(v.dtype) @ v


def _counted(call: Call, N: int) -> Tensor | None:
    """Each token's place in its document [B|1, N], -1 for padding; None where positions are not such counts."""
    at, real = call.q_at(N, N), call.q_real
    if call.documents is not None:
        return torch.where(at < 0, -1, at - call.starts)
    same = call.k_positions is call.q_positions or torch.equal(call.k_at(N), at)
    if not same or (real is not None and not torch.equal(at, torch.where(real, real.cumsum(1) - 1, -1))):
        return None
    return at


@dataclass(frozen=True, eq=False)
class _Places:
    """A token's place among those in blocks, from its position; below 0 for the first `cls` of its document.

    Shapes: within [B|1, N]: places in documents by slot; None where positions are places.
    """

    cls: int
    within: Tensor | None

    @property
    def plain(self) -> bool:
        return not self.cls and self.within is None

    def __call__(self, b: Tensor, at: Tensor) -> Tensor:
        if self.within is None:
            return at - self.cls
        return self.within[b if len(self.within) > 1 else torch.zeros_like(b), at] - self.cls


@dataclass(frozen=True, eq=False, repr=False)
class _ByDistance(Edit):
    """Add each head's bias for i - j: the entry at its centre plus i - j, held inside its reach."""

    additive: ClassVar[bool] = True
    values: Tensor
    centres: Tensor
    reaches: Tensor
    place: _Places

    @staticmethod
    def of(table: Tensor, windows: Sequence[int], starts: Sequence[int], place: _Places) -> _ByDistance:
        # Global heads, and tokens beside the blocks, read the zero at the end.
        values = torch.cat([table, table.new_zeros(1)])
        centres = [start + w - 1 if w else len(table) for w, start in zip(windows, starts, strict=True)]
        reaches = torch.tensor([max(w - 1, 0) for w in windows], device=table.device)
        return _ByDistance(values, torch.tensor(centres, device=table.device), reaches, place)

    def bias(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        reach = self.reaches.to(h.device)[h]
        off = torch.minimum(torch.maximum(i - j, -reach), reach)
        entry = self.centres.to(h.device)[h] + off
        if self.place.cls:
            beside = (self.place(b, i) < 0) | (self.place(b, j) < 0)
            entry = torch.where(beside, len(self.values) - 1, entry)
        return self.values.to(h.device, dtype)[entry]


def divisor_windows(N: int, heads: int) -> list[int]:
    """Windows for N positions: divisors of N but 1 and N, ascending, one for each head but the last two; these are 0.

    Where there are more divisors than such heads they are spread evenly by their logarithm, and where there are fewer
    the rest of the heads are global: `divisor_windows(250, 8)` is the paper's [2, 5, 10, 25, 50, 125, 0, 0].

    Raises: ValueError where N < 1 or heads < 1.
    """
    if N < 1 or heads < 1:
        raise ValueError(f"divisor_windows needs N >= 1 and heads >= 1; got N={N}, heads={heads}.")
    found = [d for d in range(2, N) if N % d == 0]
    room = min(max(heads - 2, 0), len(found))
    chosen: list[int] = []
    for n in range(room):
        low, high = math.log(found[0]), math.log(found[-1])
        target = low + (high - low) * (n / (room - 1) if room > 1 else 0.5)
        # Those that leave enough larger ones for the heads to come.
        left = [d for d in found[: len(found) - (room - 1 - n)] if not chosen or d > chosen[-1]]
        chosen.append(min(left, key=lambda d: abs(math.log(d) - target)))
    return chosen + [0] * (heads - room)
