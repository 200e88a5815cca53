"""Sparse attention at dense speed: each block of queries multiplied with exactly the key runs it may look at."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from regard.edits import softmax
from regard.ops.engine import StateEngine, common_refusals, wide
from regard.ops.problem import Problem
from regard.ops.runs import Block, blocks
from regard.ops.state import State

ROWS, COLS = 64, 128  # queries and keys a tile, chosen by measurement (`make bench`)


class Tiles(StateEngine):
    """The mask's non-empty tiles as batched matrix products, with one softmax per block of queries in float32.

    Time follows the visible tiles; memory is one block's scores. Its backward pass recomputes the scores.
    """

    name = "tiles"

    def unsupported(self, problem: Problem) -> list[str]:
        reasons = common_refusals(problem)
        if torch.is_grad_enabled() and any(edit.needs_grad for edit in problem.edits):
            reasons.append("an edit needs a gradient")
        if problem.grad and any(not edit.additive for edit in problem.edits):
            reasons.append("an edit that is not additive has no gradient here")
        return reasons

    def attend(self, problem: Problem) -> State:
        wanted = problem.state or problem.normaliser is not softmax
        if problem.grad:
            return State(*_Recomputed.apply(problem.q, problem.k, problem.v, problem))
        with torch.no_grad():
            return State(*_forward(problem, wanted))

    def run(self, problem: Problem) -> Tensor | State:
        if problem.views:
            # Every part's log-sum-exp is needed to merge them.
            state = super().run(replace(problem, state=True))
            assert isinstance(state, State)
            return state if problem.state else problem.normaliser.from_lse(state.out, state.lse)
        return super().run(problem)


class _Recomputed(torch.autograd.Function):
    """Forward by tiles; backward recomputes each block's weights from the log-sum-exp."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, problem: Problem) -> tuple[Tensor, Tensor]:
        out, lse = _forward(problem, True)
        ctx.problem = problem
        ctx.save_for_backward(q, k, v, out, lse)
        return out, lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        dq, dk, dv = _backward(ctx.problem, q, k, v, out, lse, *grads)
        return dq, dk, dv, None


def _work(p: Problem) -> list[tuple[slice, slice, list[Block]]]:
    """Which (batch, head) ranges share a list of blocks."""
    plan = p.where.tiles(
        p.N, p.M, (ROWS, COLS), batch=p.B, heads=p.H, q_positions=p.q_positions, k_positions=p.k_positions
    )
    kind, device = wide(p.q.dtype), p.q.device
    over_b, over_h = plan.status.shape[:2]
    work = []
    for b in range(over_b):
        batch = slice(b, b + 1) if over_b > 1 else slice(0, p.B)
        for h in range(over_h):
            heads = slice(h, h + 1) if over_h > 1 else slice(0, p.H)
            work.append((batch, heads, blocks(plan, b, h, kind, device)))
    return work


def _pick(p: Problem, t: Tensor, batch: slice, heads: slice, kind: torch.dtype) -> Tensor:
    """Keys or values of the groups that serve `heads`, flattened to [b * g, M, D]."""
    share = p.H // p.G
    groups = slice(heads.start // share, (heads.stop - 1) // share + 1)
    return t[batch, groups].to(kind).flatten(0, 1)


def _rows(p: Problem, t: Tensor, batch: slice, heads: slice, block: Block, kind: torch.dtype) -> Tensor:
    """A block of queries as [b * g, share * rows, D]."""
    part = t[batch, heads, block.start : block.stop].to(kind)
    share = min(p.H // p.G, part.shape[1])
    return part.reshape(part.shape[0] * (part.shape[1] // share), share * part.shape[2], part.shape[3])


def _scores(p: Problem, q: Tensor, keys: list[Tensor], block: Block, batch: slice, heads: slice) -> Tensor:
    """Masked scores [b * g, share * rows, keys] of one block."""
    share = q.shape[1] // (block.stop - block.start)
    scores = q.new_empty(q.shape[0], q.shape[1], block.keys)
    bias = None if block.bias is None else block.bias.repeat(share, 1)
    place = 0
    for run in keys:
        into = scores[:, :, place : place + run.shape[1]]
        if bias is not None and not p.edits:
            torch.baddbmm(bias[:, place : place + run.shape[1]], q, run.transpose(1, 2), alpha=p.scale, out=into)
        else:
            torch.baddbmm(q.new_zeros(()), q, run.transpose(1, 2), beta=0, alpha=p.scale, out=into)
        place += run.shape[1]
    if p.edits:
        scores = _edited(p, scores, block, batch, heads)
        if bias is not None:
            scores += bias
    return scores


def _edited(p: Problem, scores: Tensor, block: Block, batch: slice, heads: slice) -> Tensor:
    device = scores.device
    shape = (batch.stop - batch.start, heads.stop - heads.start, block.stop - block.start, block.keys)
    b = torch.arange(batch.start, batch.stop, device=device).view(-1, 1, 1, 1)
    h = torch.arange(heads.start, heads.stop, device=device).view(1, -1, 1, 1)
    rows = torch.arange(block.start, block.stop, device=device)
    slots = torch.cat([_slots(run, device) for run in block.runs])
    i = p.i[batch if p.i.shape[0] > 1 else slice(0, 1), heads if p.i.shape[1] > 1 else slice(0, 1)][..., rows]
    j = p.j[batch if p.j.shape[0] > 1 else slice(0, 1), heads if p.j.shape[1] > 1 else slice(0, 1)][..., slots]
    wide_scores = scores.view(shape)
    for edit in p.edits:
        who = (rows.view(-1, 1), slots) if edit.by_slot else (i.unsqueeze(-1), j.unsqueeze(-2))
        wide_scores = edit.at(wide_scores, b, h, *who)
    return wide_scores.reshape(scores.shape)


def _slots(run: slice | Tensor, device: torch.device) -> Tensor:
    return run if isinstance(run, Tensor) else torch.arange(run.start, run.stop, device=device)


def _taken(t: Tensor, block: Block) -> list[Tensor]:
    return [t[:, run] if isinstance(run, slice) else t.index_select(1, run) for run in block.runs]


def _forward(p: Problem, wanted: bool) -> tuple[Tensor, Tensor]:
    kind = wide(p.q.dtype)
    out = p.q.new_empty(p.B, p.H, p.N, p.v.shape[-1])
    lse = p.q.new_full((p.B, p.H, p.N), -torch.inf, dtype=kind) if wanted else p.q.new_empty(0)
    for batch, heads, work in _work(p):
        k, v = (_pick(p, t, batch, heads, kind) for t in (p.k, p.v))
        for block in work:
            into = out[batch, heads, block.start : block.stop]
            if not block.keys:
                into.zero_()
                continue
            scores = _scores(p, _rows(p, p.q, batch, heads, block, kind), _taken(k, block), block, batch, heads)
            if wanted:
                sums = scores.logsumexp(-1).view(into.shape[:3])
                if block.empty is not None:
                    sums = sums.masked_fill(block.empty, -torch.inf)
                lse[batch, heads, block.start : block.stop] = sums
            weights = torch.softmax(scores, -1)
            result = _sum(weights, _taken(v, block)).view(into.shape)
            if block.empty is not None:
                result = result.masked_fill(block.empty.unsqueeze(-1), 0.0)
            into.copy_(result)
    return out, lse


def _sum(weights: Tensor, values: list[Tensor]) -> Tensor:
    """Weights times values, over the runs side by side."""
    result, place = None, 0
    for run in values:
        part = weights[:, :, place : place + run.shape[1]]
        result = torch.bmm(part, run) if result is None else result.baddbmm_(part, run)
        place += run.shape[1]
    assert result is not None
    return result


def _backward(
    p: Problem, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    kind = wide(q.dtype)
    dq = torch.zeros(q.shape, dtype=kind, device=q.device)
    dk, dv = (torch.zeros(t.shape, dtype=kind, device=q.device) for t in (k, v))
    share = p.H // p.G
    pull = (dout.to(kind) * out.to(kind)).sum(-1, keepdim=True) - dlse.to(kind).unsqueeze(-1)
    for batch, heads, work in _work(p):
        keys, values = (_pick(p, t, batch, heads, kind) for t in (k, v))
        groups = slice(heads.start // share, (heads.stop - 1) // share + 1)
        into_k, into_v = dk[batch, groups], dv[batch, groups]
        for block in work:
            if not block.keys:
                continue
            rows, grad, less = (_rows(p, t, batch, heads, block, kind) for t in (q, dout, pull))
            sums = _rows(p, lse.unsqueeze(-1), batch, heads, block, kind)
            taken = _taken(keys, block)
            weights = (_scores(p, rows, taken, block, batch, heads) - sums).exp()
            if block.empty is not None:
                weights = weights.masked_fill(block.empty.repeat(rows.shape[1] // len(block.empty)).unsqueeze(-1), 0.0)
            back, place = torch.zeros_like(rows), 0
            for run, key, value in zip(block.runs, taken, _taken(values, block), strict=True):
                part = weights[:, :, place : place + key.shape[1]]
                slope = part * (grad @ value.transpose(1, 2) - less) * p.scale
                back += slope @ key
                _add(into_k, run, slope.transpose(1, 2) @ rows)
                _add(into_v, run, part.transpose(1, 2) @ grad)
                place += key.shape[1]
            dq[batch, heads, block.start : block.stop] += back.view(dq[batch, heads, block.start : block.stop].shape)
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)


def _add(into: Tensor, run: slice | Tensor, part: Tensor) -> None:
    part = part.view(*into.shape[:2], part.shape[1], part.shape[2])
    if isinstance(run, slice):
        into[:, :, run] += part
    else:
        into.index_add_(2, run, part)
