"""The definition of attend: everything dense, in the open."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.ops.engine import Engine, apply_edits, common_refusals, log_sum_exp, wide
from regard.ops.problem import Problem, Rows
from regard.ops.state import State


class Reference(Engine):
    """Dense attention that holds all N x M scores of every head; any device, dtype, edit and gradient."""

    name = "reference"

    def unsupported(self, problem: Problem) -> list[str]:
        return common_refusals(problem, rows=True, lse=False)

    def run(self, problem: Problem) -> Tensor | State:
        p = problem
        kind = wide(p.q.dtype)
        b = torch.arange(p.B, device=p.q.device).view(-1, 1, 1, 1)
        h = torch.arange(p.H, device=p.q.device).view(1, -1, 1, 1)
        i, j = p.i.unsqueeze(-1), p.j.unsqueeze(-2)
        seen = p.where.at(b, h, i, j) & (i >= 0) & (j >= 0)
        scores = _products(p.q, p.k, kind) * p.scale
        for view in reversed(p.views):
            keys = p.k if view.k is None else view.k
            scores = torch.where(view.where.at(b, h, i, j), _products(view.q, keys, kind) * p.scale, scores)
        rows, slots = torch.arange(p.N, device=i.device).view(-1, 1), torch.arange(p.M, device=i.device)
        scores = apply_edits(p.edits, scores, b, h, (i, j), (rows, slots))
        seen = seen.expand_as(scores)
        weights = p.normaliser.weights(scores, seen)
        weights = p.read(Rows(weights, 0, 0, seen))
        values = p.v.to(kind).repeat_interleave(p.H // p.G, dim=1)
        out = (weights.to(kind) @ values).to(p.q.dtype)
        if not p.state:
            return out
        return State(out, log_sum_exp(scores, seen))


def _products(q: Tensor, k: Tensor, kind: torch.dtype) -> Tensor:
    keys = k.to(kind).repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    return q.to(kind) @ keys.transpose(-1, -2)
