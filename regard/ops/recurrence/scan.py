"""The recurrence of single numbers."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 64


def scan(x: Tensor, decay: Tensor, *, first: Tensor | None = None) -> Tensor:
    """h_t = exp(decay_t) h_{t-1} + x_t for every channel on its own, along the second last axis.

    Doubling inside chunks of tokens, one step from chunk to chunk: no power could overflow, and time is linear.

    Shapes: x [..., N, C]; decay [..., N, C or 1], at most 0; first [..., C], what is kept before the first token; out
    [..., N, C], whose last token is what is kept after it.
    """
    N = x.shape[-2]
    outs, h = [], first
    for start in range(0, N, CHUNK):
        part, fade = x[..., start : start + CHUNK, :], decay[..., start : start + CHUNK, :]
        step = 1
        while step < part.shape[-2]:
            shifted = part[..., :-step, :] * fade[..., step:, :].exp()
            part = torch.cat([part[..., :step, :], part[..., step:, :] + shifted], -2)
            fade = torch.cat([fade[..., :step, :], fade[..., step:, :] + fade[..., :-step, :]], -2)
            step *= 2
        if h is not None:
            part = part + fade.exp() * h.unsqueeze(-2)
        h = part[..., -1, :]
        outs.append(part)
    return torch.cat(outs, -2) if outs else x
