"""Exact attention a block of queries at a time: the engine for anything that reads or edits attention weights."""

from __future__ import annotations

import functools
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from regard.ops.engine import Engine, apply_edits, common_refusals, log_sum_exp, wide
from regard.ops.problem import Problem, Rows
from regard.ops.state import State, merge

_SCORES = 1 << 20  # scores held at a time, so that a block stays near the processor's cache


@dataclass(frozen=True)
class RowBlocks(Engine):
    """Queries block by block, keys whole or in chunks merged by their log-sum-exp; memory O(block x M).

    `queries` and `keys` are the chunk sizes; None chooses queries to fit the cache and takes all keys at once. Keys
    that no query of a block may look at are skipped. In training each block is recomputed in the backward pass.

    Raises: ValueError where a chunk size is below 1.
    Source: Self-attention Does Not Need O(n^2) Memory, 2112.05682, section 3.
    """

    queries: int | None = None
    keys: int | None = None
    name = "rows"

    def __post_init__(self) -> None:
        for field in ("queries", "keys"):
            size = getattr(self, field)
            if size is not None and size < 1:
                raise ValueError(f"RowBlocks.{field} must be at least 1; got {size}.")

    def unsupported(self, problem: Problem) -> list[str]:
        reasons = common_refusals(problem, rows=True, lse=False)
        if self.keys is not None and (problem.rows is not None or not problem.normaliser.has_lse):
            reasons.append("complete rows are needed; leave RowBlocks.keys unset")
        return reasons

    def run(self, problem: Problem) -> Tensor | State:
        p = problem
        size = self.queries or max(16, min(512, _SCORES // max(1, p.B * p.H * p.M)))
        recompute = p.rows is None and (p.grad or p.extra_grad)
        outs, lses = [], []
        for block in _ranges(p, size):
            # Recomputed as a whole: keeping the states of its chunks would cost as much as N x M / keys scores.
            given = (p, *block, self.keys)
            out, lse = checkpoint(_block, *given, use_reentrant=False) if recompute else _block(*given)
            outs.append(out)
            lses.append(lse)
        out = torch.cat(outs, 2) if outs else p.q.new_zeros(p.B, p.H, 0, p.v.shape[-1])
        if not p.state:
            return out
        return State(out, torch.cat(lses, 2) if lses else out.new_zeros(p.B, p.H, 0, dtype=wide(out.dtype)))


def _ranges(p: Problem, size: int) -> list[tuple[int, int, int, int]]:
    """Query blocks with the range of key slots that any of their queries may look at."""
    status = p.where.tiles(
        p.N, p.M, (size, 64), batch=p.B, heads=p.H, q_positions=p.q_positions, k_positions=p.k_positions
    ).status.amax((0, 1))
    ranges = []
    for r, row in enumerate(status):
        seen = row.nonzero()
        first, last = (int(seen[0]) * 64, min(p.M, int(seen[-1]) * 64 + 64)) if len(seen) else (0, 0)
        ranges.append((r * size, min(p.N, (r + 1) * size), first, last))
    return ranges


def _block(p: Problem, start: int, stop: int, first: int, last: int, keys: int | None) -> tuple[Tensor, Tensor]:
    """The output and log-sum-exps of queries `start .. stop` over key slots `first .. last`, `keys` at a time."""
    edges = list(range(first, last, keys or max(1, last))) or [first]
    chunks = list(itertools.pairwise([*edges, last]))
    states = (State(*_chunk(p, start, stop, *chunk, len(chunks) > 1)) for chunk in chunks)
    state = functools.reduce(merge, states)
    out = p.normaliser.from_lse(state.out, state.lse) if len(chunks) > 1 and not p.state else state.out
    return out.to(p.q.dtype), state.lse


def _chunk(p: Problem, start: int, stop: int, first: int, last: int, partial: bool) -> tuple[Tensor, Tensor]:
    kind = wide(p.q.dtype)
    device = p.q.device
    b = torch.arange(p.B, device=device).view(-1, 1, 1, 1)
    h = torch.arange(p.H, device=device).view(1, -1, 1, 1)
    i, j = p.i[..., start:stop, None], p.j[..., None, first:last]
    seen = p.where.at(b, h, i, j) & (i >= 0) & (j >= 0)
    scores = _scores(p.q[:, :, start:stop], p.k[:, :, first:last], kind, p.scale)
    for view in reversed(p.views):
        keys = (p.k if view.k is None else view.k)[:, :, first:last]
        other = _scores(view.q[:, :, start:stop], keys, kind, p.scale)
        scores = torch.where(view.where.at(b, h, i, j), other, scores)
    rows, slots = torch.arange(start, stop, device=device).view(-1, 1), torch.arange(first, last, device=device)
    scores = apply_edits(p.edits, scores, b, h, (i, j), (rows, slots))
    lse = log_sum_exp(scores, seen.expand_as(scores)) if partial or p.state else scores.new_zeros(scores.shape[:3])
    if partial:
        shift = lse.masked_fill(lse == -torch.inf, 0.0).unsqueeze(-1)
        # Hidden before the exponential: a hidden score may be far above the visible ones.
        weights = (scores - shift).masked_fill(~seen, -torch.inf).exp()
    else:
        weights = p.normaliser.weights(scores, seen)
    weights = p.read(Rows(weights, start, first, seen))
    groups = (p.B, p.G, (p.H // p.G) * (stop - start), last - first)
    values = weights.to(kind).reshape(groups) @ p.v[:, :, first:last].to(kind)
    return values.view(p.B, p.H, stop - start, p.v.shape[-1]), lse


def _scores(q: Tensor, k: Tensor, kind: torch.dtype, scale: float) -> Tensor:
    """Scaled products [B, H, n, m] without repeating grouped keys."""
    (B, H, n, D), G = q.shape, k.shape[1]
    grouped = (q.to(kind) * scale).reshape(B, G, (H // G) * n, D)
    return (grouped @ k.to(kind).transpose(-1, -2)).view(B, H, n, k.shape[2])
