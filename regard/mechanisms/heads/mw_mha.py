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
from regard.masks import chunks, everything, per_head
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer


class MultiWindowAttention(Mixer):
    """Head h looks at its own block of `windows[h]` positions, with a learned bias by distance; at 0 it looks at all.

    Blocks do not overlap: position p is in block p // window. Without `windows` they double from 2, and a quarter of
    the heads, at least one, are global. The last block may be short; with `pad=False` that is an error, as in the
    paper. One number gives all heads the same window.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E].
    Raises: ShapeError where there is not one window for each head; ValueError for a window below 0, and for a number
    of keys that a window does not divide where `pad` is False.
    Source: "Masked Autoencoders with Multi-Window Local-Global Attention", 2306.00561, section 3.2; its released code.
    Differs from the paper: the causal form, which looks back inside a block, is not in it; blocks are not shifted.
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
            Limit("softmax", windows=0),
            Limit("softmax", windows=12, zero=("table",)),
        ),
        variants=({"windows": (3, 0, 3, 100)},),
    )

    def __init__(self, heads: int, *, windows: Sequence[int] | int | None = None, pad: bool = True) -> None:
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
        self.pad = pad
        sizes = [2 * w - 1 if w else 0 for w in self.windows]
        # One vector holds every head's biases; `starts` says where a head's begin.
        self.starts = [sum(sizes[:h]) for h in range(heads)]
        self.table = nn.Parameter(torch.empty(sum(sizes))) if sum(sizes) else None
        if self.table is not None:
            nn.init.trunc_normal_(self.table, std=0.02)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        M = k.shape[2]
        for w in self.windows:
            if w and M % w and not self.pad:
                raise ValueError(f"{M} keys are not a multiple of the window {w}. Type pad=True, or another window.")
        plain = call.q_positions is None and call.k_positions is None and not call.edits
        if plain and q.shape[2] == M:
            return self._in_blocks(q, k, v, call)
        if self.table is None:
            return call.attend(q, k, v)
        where = per_head([chunks(w) if w else everything for w in self.windows])
        return call.attend(q, k, v, where=where, edits=(_ByDistance.of(self.table, self.windows, self.starts),))

    def _in_blocks(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        """Every token at its own position: the blocks of a window are one batch."""
        share = q.shape[1] // k.shape[1]
        outs: list[Tensor | None] = [None] * len(self.windows)
        for w in dict.fromkeys(self.windows):
            heads = [h for h, own in enumerate(self.windows) if own == w]
            groups = [h // share for h in heads]
            one, two, three = q[:, heads], k[:, groups], v[:, groups]
            found = self._local(one, two, three, w, heads, call.causal) if w else call.attend(one, two, three)
            for place, h in enumerate(heads):
                outs[h] = found[:, place]
        return torch.stack([out for out in outs if out is not None], 1)

    def _local(self, q: Tensor, k: Tensor, v: Tensor, w: int, heads: list[int], causal: bool) -> Tensor:
        N, size = q.shape[2], min(w, q.shape[2])
        count = -(-N // size)
        q, k, v = (F.pad(x, (0, 0, 0, count * size - N)).unflatten(2, (count, size)) for x in (q, k, v))
        at = torch.arange(size, device=q.device)
        off = at[:, None] - at
        assert self.table is not None
        start = torch.tensor([self.starts[h] for h in heads], device=q.device)
        bias = self.table[start[:, None, None] + off + w - 1][:, None]
        wide = torch.promote_types(q.dtype, torch.float32)
        scores = (q @ k.transpose(3, 4)).to(wide) * q.shape[-1] ** -0.5 + bias.to(wide)
        seen = (torch.arange(count * size, device=q.device) < N).view(count, 1, size)
        if causal:
            seen = seen & (off >= 0)
        # The first key of a block is real and seen by its own query at least, so that no row that is kept is empty.
        weights = scores.masked_fill(~seen, torch.finfo(wide).min).softmax(-1).to(v.dtype)
        return (weights @ v).flatten(2, 3)[:, :, :N]


@dataclass(frozen=True, eq=False, repr=False)
class _ByDistance(Edit):
    """Add each head's bias for i - j: the entry at its centre plus i - j, held inside its reach."""

    additive: ClassVar[bool] = True
    values: Tensor
    centres: Tensor
    reaches: Tensor

    @staticmethod
    def of(table: Tensor, windows: Sequence[int], starts: Sequence[int]) -> _ByDistance:
        # Global heads read the zero at the end.
        values = torch.cat([table, table.new_zeros(1)])
        centres = [start + w - 1 if w else len(table) for w, start in zip(windows, starts, strict=True)]
        reaches = [max(w - 1, 0) for w in windows]
        return _ByDistance(values, *(torch.tensor(some, device=table.device) for some in (centres, reaches)))

    def bias(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        reach = self.reaches.to(h.device)[h]
        off = torch.minimum(torch.maximum(i - j, -reach), reach)
        return self.values.to(h.device, dtype)[self.centres.to(h.device)[h] + off]


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
