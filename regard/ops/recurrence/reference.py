"""The definition: one token after another."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.ops.recurrence.engine import Recurring
from regard.ops.recurrence.problem import Recurrence


class Stepwise(Recurring):
    """S_t = diag(decay_t) S_{t-1} + k_t u_t^T and out_t = q_t S_t, as it is written; u_t is v_t, or what the delta rule
    finds missing.
    """

    name = "reference"

    def unsupported(self, p: Recurrence) -> list[str]:
        return []

    def run(self, p: Recurrence) -> tuple[Tensor, Tensor]:
        p = p.written_out()
        S, outs = p.first, []
        for t in range(p.k.shape[2]):
            if p.decay is not None:
                stays = p.decay[:, :, t].exp()
                S = S * (stays[..., None] if stays.dim() == 3 else stays[..., None, None])
            k, u = p.k[:, :, t], p.v[:, :, t]
            if p.beta is not None:
                u = p.beta[:, :, t, None] * (u - (k[..., None, :] @ S)[..., 0, :])
            S = S + k[..., :, None] * u[..., None, :]
            outs.append(p.q[:, :, :, t] @ S)
        return (torch.stack(outs, 3) if outs else p.q.new_zeros(*p.q.shape[:-1], p.v.shape[-1])), S
