"""One linear recurrence to compute, checked and brought into one form for every engine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.errors import ShapeError

Write = Literal["add", "delta"]
Normalise = Literal["none", "sum", "softmax"]
NOTHING = -1e30  # the logarithm of no weight at all; finite, so that differences of two stay numbers


@dataclass(frozen=True, eq=False)
class Memory:
    """What a recurrence keeps of the tokens so far, the same for every engine.

    `total` is the running sum of the keys where it normalises by "sum", its logarithm where by "softmax".

    Shapes: values [B, G, D, E]; total [B, G, D] or None.
    """

    values: Tensor
    total: Tensor | None = None


@dataclass(frozen=True, eq=False, kw_only=True)
class Recurrence:
    """What an engine is given: no normaliser, no padding and no documents any more, all in at least float32.

    Shapes: q [B, G, R, N, D]; k [B, G, N, D]; v [B, G, N, E]; decay None, or logarithms [G] and [G, D] where it is one
    for all tokens, [B|1, G, N] and [B|1, G, N, D] otherwise; beta [B, G, N], of the delta rule; first [B, G, D, E].
    """

    q: Tensor
    k: Tensor
    v: Tensor
    decay: Tensor | None = None
    beta: Tensor | None = None
    first: Tensor
    chunk: int | None = None

    @property
    def delta(self) -> bool:
        return self.beta is not None

    @property
    def fading(self) -> Literal["none", "head", "channel"]:
        """Whether there is a decay, and whether a head has one or each of its channels."""
        if self.decay is None:
            return "none"
        return "channel" if self.decay.dim() in (2, 4) else "head"

    def written_out(self) -> Recurrence:
        """The same with a decay for each token, [1, G, N] or [1, G, N, D], where there is one for all."""
        if self.decay is None or self.decay.dim() > 2:
            return self
        return replace(self, decay=each_token(self.decay, self.k.shape[2]))


def shapes(q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise ShapeError unless queries, keys and values fit together."""
    if not (q.dim() == k.dim() == v.dim() == 4):
        got = ", ".join(str(list(t.shape)) for t in (q, k, v))
        raise ShapeError(f"recur takes q [B, H, N, D], k [B, G, N, D], v [B, G, N, E]; got {got}.")
    (B, H, N, D), G = q.shape, k.shape[1]
    if k.shape != (B, G, N, D) or v.shape[:3] != (B, G, N) or not G or H % G:
        got = ", ".join(str(list(t.shape)) for t in (q, k, v))
        raise ShapeError(f"recur: q, k and v must agree in B, N and D, and G must divide H; got {got}.")


def fading(decay: Tensor | float, k: Tensor) -> Tensor:
    """A decay's logarithms in one of its four shapes.

    Raises: ShapeError for another shape; ValueError where it grows.
    """
    B, G, N, D = k.shape
    wide = torch.promote_types(k.dtype, torch.float32)
    found = torch.as_tensor(decay, dtype=wide, device=k.device)
    found = found.expand(G) if found.dim() == 0 else found
    allowed = [(G,), (G, D), (1, G, N), (B, G, N), (1, G, N, D), (B, G, N, D)]
    if tuple(found.shape) not in allowed:
        raise ShapeError(
            f"decay must be a number, [G], [G, D], [B, G, N] or [B, G, N, D] with B={B}, G={G}, N={N}, D={D}; got "
            f"{list(found.shape)}."
        )
    if found.dim() < 3 and not torch.compiler.is_compiling() and bool((found > 0).any()):
        raise ValueError(f"decay is the logarithm of what stays each step, at most 0; got {float(found.max())}.")
    return found


def each_token(fade: Tensor, N: int) -> Tensor:
    """A decay as [B|1, G, N] or [B|1, G, N, D], where it may be one for all N tokens."""
    return fade if fade.dim() > 2 else fade[None, :, None].expand(1, -1, N, *fade.shape[1:])


def blank(fade: Tensor | None, k: Tensor, real: Tensor | None, starts: Tensor | None) -> Tensor | None:
    """The decay with none at padding, and with everything forgotten where `starts` [B|1, N] is True."""
    if real is None and starts is None:
        return fade
    N = k.shape[2]
    each = torch.zeros(1, 1, N, dtype=torch.promote_types(k.dtype, torch.float32), device=k.device)
    if fade is not None:
        each = each_token(fade, N)
    more = (..., None) if each.dim() == 4 else (...,)
    if real is not None:
        each = torch.where(real[:, None][more], each, 0.0)
    if starts is not None:
        each = torch.where(starts[:, None][more], -torch.inf, each)
    return each if each.shape[1] == k.shape[1] else each.expand(-1, k.shape[1], *each.shape[2:])


def padded(p: Recurrence, length: int) -> Recurrence:
    """The recurrence with tokens that write nothing and forget nothing behind it, `length` in all."""
    more = length - p.k.shape[2]
    if not more:
        return p
    p = p.written_out()
    decay = p.decay
    if decay is not None:
        decay = F.pad(decay, (0, more) if decay.dim() == 3 else (0, 0, 0, more))
    q, k, v = (F.pad(x, (0, 0, 0, more)) for x in (p.q, p.k, p.v))
    return replace(p, q=q, k=k, v=v, decay=decay, beta=None if p.beta is None else F.pad(p.beta, (0, more)))
