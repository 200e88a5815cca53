"""The two normalisers, as recurrences without one."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regard.ops.recurrence.problem import NOTHING, each_token

FORGET = -1e4  # a decay after which nothing is left in float64 either, but finite: infinities have no difference


class Sums(NamedTuple):
    """Outputs [B, H, N, E + 1] and what is kept [B, G, D, E + 1], the last of E + 1 for the keys alone."""

    out: Tensor
    kept: Tensor


class LogWeights(NamedTuple):
    """Keys [B, G, N, D] that sum to 1 over the tokens so far, by the decay [B, G, N, D]; the total [B, G, D] behind."""

    keys: Tensor
    decay: Tensor | None
    total: Tensor


def summed(v: Tensor, real: Tensor | None) -> Tensor:
    """Values with a further one that is 1 at every real token."""
    one = torch.ones_like(v[..., :1])
    return torch.cat([v, one if real is None else one.masked_fill(~real[:, None, :, None], 0.0)], -1)


def weighed(sums: Sums) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs divided by what the keys alone give; 0 where that is 0."""
    out, weight = sums.out[..., :-1], sums.out[..., -1:]
    none = weight == 0
    return (
        torch.where(none, 0.0, out / torch.where(none, 1.0, weight)),
        sums.kept[..., :-1],
        sums.kept[..., -1],
    )


def log_weights(
    k: Tensor,
    fade: Tensor | None,
    real: Tensor | None,
    begins: Tensor | None,
    last: Tensor | None,
    total: Tensor | None,
    causal: bool,
) -> LogWeights:
    """Weights exp(k) as shares of all up to each token: z_t = log(exp(z_{t-1} + decay_t) + exp(k_t)), keys exp(k - z),
    decay z_{t-1} + decay_t - z_t.

    In float64: z grows with the keys, and what is wanted of it are small differences.

    Shapes: k [B, G, N, D]; real, begins [B|1, N]; last [B|1, N], the slot of each one's document's last token.
    """
    B, G, N, D = k.shape
    logs = k.double().clamp(min=NOTHING)
    if real is not None:
        logs = logs.masked_fill(~real[:, None, :, None], NOTHING)
    g = torch.zeros(1, 1, N, 1, dtype=torch.float64, device=k.device)
    if fade is not None:
        each = each_token(fade.double(), N)
        g = each.clamp(min=FORGET) if each.dim() == 4 else each.clamp(min=FORGET)[..., None]
        if real is not None:
            g = torch.where(real[:, None, :, None], g, 0.0)
    if begins is not None:
        g = torch.where(begins[:, None, :, None], FORGET, g)
    before = torch.full((B, G, 1, D), NOTHING, dtype=torch.float64, device=k.device)
    if total is not None:
        before = total.double()[:, :, None]
    sums = g.cumsum(2)
    z = torch.logcumsumexp(torch.cat([before, (logs - sums).clamp(min=NOTHING)], 2), 2)
    z = torch.cat([before, (z[:, :, 1:] + sums).clamp(min=NOTHING)], 2)
    end = z[:, :, -1]
    if causal:
        keys, decay = (logs - z[:, :, 1:]).exp(), (z[:, :, :-1] + g - z[:, :, 1:]).clamp(max=0.0)
        return LogWeights(keys.to(k.dtype), decay.to(k.dtype), end.to(k.dtype))
    whole = z[:, :, -1:] if last is None else z[:, :, 1:].gather(2, last[:, None, :, None].expand(B, G, -1, D))
    keys = (logs - whole).exp().to(k.dtype)
    forget = None if begins is None else torch.where(begins[:, None], -torch.inf, 0.0).to(k.dtype).expand(-1, G, -1)
    return LogWeights(keys, forget, end.to(k.dtype))
