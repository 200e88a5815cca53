"""Chunks of tokens at a time: matrix products inside a chunk, what is kept carried from one to the next."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regard.ops.recurrence.engine import Recurring
from regard.ops.recurrence.problem import Recurrence, padded
from regard.ops.recurrence.products import after, between, faded, until

CHUNK = 64  # of 32, 64 and 128 the fastest or close to it: without decay, with one, and by the delta rule
SPAN = 1024  # tokens whose chunks are computed together; their intermediate results stay in a core's cache


class Chunked(Recurring):
    """Linear time, and as fast as matrix products are.

    The delta rule is the additive one with other values: what each token of a chunk adds follows from what those before
    it add, a triangular system per chunk.
    """

    name = "chunked"

    def unsupported(self, p: Recurrence) -> list[str]:
        return []

    def run(self, p: Recurrence) -> tuple[Tensor, Tensor]:
        N = p.k.shape[2]
        c = size(p) if p.chunk is None else p.chunk
        span = max(c, SPAN - SPAN % c)
        S, outs = p.first, []
        for first in range(0, N, span):
            part = _cut(p, first, min(first + span, N), S)
            out, S = _run(padded(part, -(-part.k.shape[2] // c) * c), c)
            outs.append(out[:, :, :, : part.k.shape[2]])
        return (torch.cat(outs, 3) if outs else p.q.new_zeros(*p.q.shape[:-1], p.v.shape[-1])), S


class Parallel(Recurring):
    """All tokens as one chunk: every product of a query and a key at once, in quadratic time and memory."""

    name = "parallel"

    def unsupported(self, p: Recurrence) -> list[str]:
        return []

    def run(self, p: Recurrence) -> tuple[Tensor, Tensor]:
        N = p.k.shape[2]
        if not N:
            return p.q.new_zeros(*p.q.shape[:-1], p.v.shape[-1]), p.first
        c = 1 << (N - 1).bit_length()
        out, S = _run(padded(p, c), c)
        return out[:, :, :, :N], S


def size(p: Recurrence) -> int:
    """How many tokens to a chunk: a power of two, no longer than the sequence asks for."""
    return min(CHUNK, 1 << max(p.k.shape[2] - 1, 0).bit_length())


def _cut(p: Recurrence, first: int, last: int, S: Tensor) -> Recurrence:
    here = slice(first, last)
    decay = p.decay if p.decay is None or p.decay.dim() < 3 else p.decay[:, :, here]
    beta = None if p.beta is None else p.beta[:, :, here]
    return replace(p, q=p.q[:, :, :, here], k=p.k[:, :, here], v=p.v[:, :, here], decay=decay, beta=beta, first=S)


@dataclass(frozen=True, eq=False)
class _Fades:
    """How much of what is kept reaches each token of a chunk, of each token its end, and of the kept the next chunk.

    Shapes: into, out [..., n, c, 1 or D]; whole [..., n, 1 or D, 1]; within [..., n, c, c], of a decay per head.
    """

    into: Tensor | None
    out: Tensor | None
    whole: Tensor | None
    within: Tensor | None
    each: Tensor | None  # [..., n, c, D], of a decay per channel


def _fades(p: Recurrence, c: int) -> _Fades:
    if p.decay is None:
        return _Fades(None, None, None, None, None)
    g = p.decay
    if g.dim() < 3:  # one for all tokens: one chunk is as another
        g = g[None, :, None, None].expand(1, -1, 1, c, *g.shape[1:])
    else:
        g = g.unflatten(2, (-1, c))
    if p.fading == "head":
        into, out, whole = until(g, -1).exp(), after(g, -1).exp(), g.sum(-1).exp()
        return _Fades(into[..., None], out[..., None], whole[..., None, None], between(g).exp(), None)
    into, out, whole = until(g, -2).exp(), after(g, -2).exp(), g.sum(-2).exp()
    return _Fades(into, out, whole[..., None], None, g)


def _weighted(q: Tensor, k: Tensor, fades: _Fades, lower: Tensor) -> Tensor:
    """Products [B, G, n, R, c, c] of queries [B, G, R, n, c, D] and keys [B, G, n, c, D], less by the decay."""
    across = q.transpose(2, 3)
    if fades.each is not None:
        g = fades.each.expand(*fades.each.shape[:2], k.shape[2], *fades.each.shape[3:])
        return faded(across, k, g)
    R, c = across.shape[3], across.shape[4]
    scores = (across.flatten(3, 4) @ k.transpose(-1, -2)).unflatten(3, (R, c))
    return scores * (lower if fades.within is None else fades.within.unsqueeze(3))


def _run(p: Recurrence, c: int) -> tuple[Tensor, Tensor]:
    """Outputs [B, G, R, N, E] of whole chunks, and what is kept after them."""
    q, k, v = (x.unflatten(-2, (-1, c)) for x in (p.q, p.k, p.v))
    fades = _fades(p, c)
    lower = torch.ones(c, c, dtype=k.dtype, device=k.device).tril()
    leaving = k if fades.out is None else k * fades.out
    reading = q if fades.into is None else q * fades.into.unsqueeze(2)
    if p.beta is None:
        kept, last = _carried(leaving.transpose(-1, -2) @ v, fades.whole, p.first)
        adds = v
    else:
        adds, kept, last = _missing(p, k, v, leaving, fades, lower)
    R = q.shape[2]
    scores = _weighted(q, k, fades, lower).flatten(3, 4)  # [B, G, n, R * c, c]
    out = scores @ adds + reading.transpose(2, 3).flatten(3, 4) @ kept
    return out.unflatten(3, (R, c)).transpose(2, 3).flatten(3, 4), last


def _carried(adds: Tensor, whole: Tensor | None, S: Tensor) -> tuple[Tensor, Tensor]:
    """What is kept before each chunk [B, G, n, D, E], and after the last, where chunks add [B, G, n, D, E]."""
    if whole is None:
        sums = torch.cat([S.unsqueeze(2), adds], 2).cumsum(2)
        return sums[:, :, :-1], sums[:, :, -1]
    kept = []
    for n in range(adds.shape[2]):
        kept.append(S)
        S = S * whole[:, :, n if whole.shape[2] > 1 else 0] + adds[:, :, n]
    return torch.stack(kept, 2), S


def _missing(
    p: Recurrence, k: Tensor, v: Tensor, leaving: Tensor, fades: _Fades, lower: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """What the delta rule adds at each token [B, G, n, c, E], what is kept before each chunk, and after the last."""
    assert p.beta is not None
    beta = p.beta.unflatten(-1, (-1, k.shape[-2]))[..., None]
    arriving = k if fades.into is None else k * fades.into
    system = beta * _weighted(k.unsqueeze(2), k, fades, lower)[:, :, :, 0]  # what is on its diagonal is not read
    wanted = torch.cat([beta * v, beta * arriving], -1)
    solved = torch.linalg.solve_triangular(system, wanted, upper=False, unitriangular=True)
    own, against = solved.split([v.shape[-1], k.shape[-1]], -1)
    S, kept, adds = p.first, [], []
    for n in range(k.shape[2]):
        u = own[:, :, n] - against[:, :, n] @ S
        kept.append(S)
        adds.append(u)
        if fades.whole is not None:
            S = S * fades.whole[:, :, n if fades.whole.shape[2] > 1 else 0]
        S = S + leaving[:, :, n].transpose(-1, -2) @ u
    return torch.stack(adds, 2), torch.stack(kept, 2), S
