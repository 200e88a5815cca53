"""Sparse attention at dense speed: each block of queries multiplied with exactly the key runs it may look at."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from regard.edits import softmax
from regard.ops.engine import StateEngine, common_refusals, wide
from regard.ops.parts import Keys, Part, Space, cut, work
from regard.ops.problem import Problem
from regard.ops.runs import Block
from regard.ops.stack import LEAST, Normalise, stack
from regard.ops.state import State


class Tiles(StateEngine):
    """The mask's non-empty tiles as batched matrix products, with one softmax per block of queries in float32.

    Time follows the visible tiles; memory is the scores of one block or stack. Its backward pass recomputes the scores.
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
        if problem.grad:
            return State(*_Recomputed.apply(problem.q, problem.k, problem.v, problem))
        with torch.no_grad():
            return State(*_forward(problem, problem.state or problem.normaliser is not softmax))

    def run(self, problem: Problem) -> Tensor | State:
        if problem.views and problem.grad:
            # Each part has a backward pass of its own; their log-sum-exps are needed to merge them.
            state = super().run(replace(problem, state=True))
            assert isinstance(state, State)
            return state if problem.state else problem.normaliser.from_lse(state.out, state.lse)
        if problem.views:
            return self._finished(problem, self.attend(problem))
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
        return *_backward(ctx.problem, q, k, v, out, lse, *grads), None


def _forward(p: Problem, wanted: bool) -> tuple[Tensor, Tensor]:
    # Written at once by all threads, or each block would wait for one thread to be given its memory.
    out = p.q.new_empty(p.B, p.H, p.N, p.v.shape[-1]).zero_()
    lse = p.q.new_full((p.B, p.H, p.N), -torch.inf, dtype=wide(p.q.dtype)) if wanted else p.q.new_empty(0)
    space = Space()

    def normalise(scores: Tensor) -> tuple[Tensor, Tensor | None]:
        if wanted:
            return scores, _log_sum_exp_(scores)
        # In place, so that a block's scores stay in a core's own cache.
        return torch.softmax(scores, -1, out=scores), None

    for parts in work(p):
        v = parts[0].keys(p.v)
        joined = list(zip(*(part.blocks for part in parts), strict=True))
        if len(parts) == 1 and not p.edits:
            joined = _stacked(parts[0], v, normalise, out, lse, space)
        space.reserve(max(part.room for part in parts), parts[0].q)
        for row in joined:
            pieces = [(part, block) for part, block in zip(parts, row, strict=True) if block.keys]
            if not pieces:
                continue
            pieces.sort(key=lambda piece: piece[1].keys)
            # Only where no piece shows a row anything does softmax meet a row of -inf, and its NaN is zeroed.
            hidden = [rows for part, block in pieces if (rows := part.empty(block)) is not None]
            empty = functools.reduce(torch.logical_and, hidden) if len(hidden) == len(pieces) else None
            scores, extra = _joint(pieces, space)
            if p.edits:  # a bias of -inf may hide a whole row that the mask shows
                empty = scores.amax(-1, keepdim=True) == -torch.inf
            weights, sums = normalise(scores)
            if sums is not None:
                held = parts[0].into(lse, row[0])
                held.copy_(sums.view(held.shape))
            result = _read(pieces, weights, v, extra)
            into = parts[0].into(out, row[0])
            into.copy_((result if empty is None else result.masked_fill(empty, 0.0)).view(into.shape))
    return out, lse


def _stacked(part: Part, v: Keys, normalise: Normalise, out: Tensor, lse: Tensor, space: Space) -> list[tuple[Block]]:
    """Compute the runs of blocks that can be stacked; the blocks that are left."""
    left, at = [], 0
    while at < len(part.blocks):
        run = part.blocks[at : at + part.blocks[at].run]
        if len(run) >= LEAST:
            stack(part, v, run, normalise, out, lse, space)
        else:
            left += [(block,) for block in run]
        at += len(run)
    return left


def _joint(pieces: list[tuple[Part, Block]], space: Space) -> tuple[Tensor, int]:
    """The pieces' scores side by side, the largest last, and how many columns stand before it."""
    *others, (part, block) = pieces
    extra = sum(other.keys for _, other in others)
    if not others:
        return part.scores(block, space=space), 0
    if block.main is None or block.main.stop < block.keys + extra or 4 * extra > block.keys or part.p.edits:
        return torch.cat([one.scores(it) for one, it in pieces], -1), extra
    scores, place = part.scores(block, extra, space), 0
    for one, it in others:
        scores[:, :, place : place + it.keys] = one.scores(it)
        place += it.keys
    return scores, extra


def _read(pieces: list[tuple[Part, Block]], weights: Tensor, v: Keys, extra: int) -> Tensor:
    """Weights times values over all pieces."""
    *others, (part, block) = pieces
    aside, place = [], 0
    for one, it in others:
        aside.append(one.read(weights[:, :, place : place + it.keys], v, it))
        place += it.keys
    return sum(aside, start=part.read(weights, v, block, extra))


def _log_sum_exp_(scores: Tensor) -> Tensor:
    """Scores become softmax weights in place; their log-sum-exp [.., 1], -inf where all are -inf."""
    top = scores.amax(-1, keepdim=True)
    scores.sub_(top.masked_fill(top == -torch.inf, 0.0)).exp_()
    total = scores.sum(-1, keepdim=True)
    scores.div_(total)
    return top + total.log()


def _backward(
    p: Problem, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, dout: Tensor, dlse: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    kind = wide(q.dtype)
    dq, dk, dv = (torch.zeros(t.shape, dtype=kind, device=q.device) for t in (q, k, v))
    none = (lse == -torch.inf).unsqueeze(-1)
    pull = (dout.to(kind) * out.to(kind)).sum(-1, keepdim=True) - dlse.to(kind).unsqueeze(-1)
    # Rows that see nothing pass no gradient on, whatever comes down to them; a sum of +inf makes their weights 0.
    pull, sums = pull.masked_fill(none, 0.0), lse.unsqueeze(-1).masked_fill(none, torch.inf)
    for (part,) in work(p):
        keys, values = part.keys(k).rows, part.keys(v).rows
        over = [part.rows(t) for t in (q, dout, pull, sums)]
        into_k, into_v = dk[part.batch, part.groups], dv[part.batch, part.groups]
        for block in part.blocks:
            if not block.keys:
                continue
            rows, grad, less, least = (cut(t, block) for t in over)
            weights = (part.scores(block) - least).exp()
            slots = block.slots.to(q.device)
            key, value = keys.index_select(1, slots), values.index_select(1, slots)
            slope = weights * (grad @ value.transpose(1, 2) - less) * p.scale
            into = part.into(dq, block)
            into += (slope @ key).view(into.shape)
            for held, change in ((into_k, slope.transpose(1, 2) @ rows), (into_v, weights.transpose(1, 2) @ grad)):
                held.index_add_(2, slots, change.view(*held.shape[:2], len(slots), held.shape[3]))
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype)
