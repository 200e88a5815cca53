"""Products of queries and keys that fade between them, without a power that could overflow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

BROADCAST = 2  # blocks up to this size are multiplied out: matrices this small are dearer as matrices


def until(g: Tensor, dim: int) -> Tensor:
    """Sums from the first token up to and including each."""
    return g.cumsum(dim)


def after(g: Tensor, dim: int) -> Tensor:
    """Sums from behind each token to the last one."""
    rest = g.narrow(dim, 1, g.shape[dim] - 1)
    summed = rest.flip(dim).cumsum(dim).flip(dim)
    return torch.cat([summed, torch.zeros_like(g.narrow(dim, 0, 1))], dim)


def between(g: Tensor) -> Tensor:
    """Sums of g [..., c] over the tokens behind u up to and including r, [..., c, c] at [r, u]; -inf where r < u.

    Every sum is made of its own terms: the difference of two long sums would lose the short ones.
    """
    c = g.shape[-1]
    below = torch.ones(c, c, dtype=torch.bool, device=g.device).tril(-1)
    terms = torch.where(below, g[..., :, None], 0.0)
    upto = torch.ones_like(below).tril()
    return terms.cumsum(-2).masked_fill(~upto, -torch.inf)


def faded(q: Tensor, k: Tensor, g: Tensor) -> Tensor:
    """q_r k_u weighted channel by channel with exp of the sum of g behind u up to r, for u <= r; 0 elsewhere.

    Two halves of a block meet at its middle: queries fade from there and keys up to there, so that every exponent is a
    sum of decays and none is positive. The halves are blocks again, down to single tokens.

    Shapes: q [..., R, c, D]; k, g [..., c, D], c a power of two; result [..., R, c, c].
    """
    c = k.shape[-2]
    found = (q * k.unsqueeze(-3)).sum(-1)[..., None, None]  # [..., R, c, 1, 1]: blocks of one token
    h = 1
    while h < c:
        cut = (c // (2 * h), 2, h)
        queries, keys, fades = q.unflatten(-2, cut), k.unflatten(-2, cut), g.unflatten(-2, cut)
        right = queries[..., 1, :, :] * until(fades[..., 1, :, :], -2).exp().unsqueeze(-4)
        left = (keys[..., 0, :, :] * after(fades[..., 0, :, :], -2).exp()).unsqueeze(-4)
        if h <= BROADCAST:
            cross = (right.unsqueeze(-2) * left.unsqueeze(-3)).sum(-1)
        else:
            cross = right @ left.transpose(-1, -2)
        halves = found.unflatten(-3, (c // (2 * h), 2))
        top = F.pad(halves[..., 0, :, :], (0, h))
        bottom = torch.cat([cross, halves[..., 1, :, :]], -1)
        found = torch.cat([top, bottom], -2)
        h *= 2
    return found.squeeze(-3)
