"""Blocks of one shape at equal steps, such as a sliding window's, computed head by head as one batch."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from regard.ops.parts import Keys, Part, Space
from regard.ops.runs import Block

Normalise = Callable[[Tensor], tuple[Tensor, Tensor | None]]  # scores to weights and log-sum-exps, if wanted
LEAST = 4  # blocks worth stacking
_SCORES = 1 << 20  # scores held at a time, chosen by measurement (`make bench`)


def stack(
    part: Part,
    v: Keys,
    run: list[Block],
    normalise: Normalise,
    out: Tensor,
    lse: Tensor,
    space: Space,
) -> None:
    """Write the outputs and, where `normalise` gives them, the log-sum-exps of a run of blocks.

    Neighbouring blocks look at nearly the same keys, so that those of one head stay in a core's own cache.
    """
    size = run[0].stop - run[0].start
    parts = math.ceil(len(run) * size * run[0].keys / _SCORES)
    threads = torch.get_num_threads()
    each = math.ceil(len(run) / parts / threads) * threads  # as much work for every thread
    outs = out[part.batch, part.heads]
    for g in range(part.q.shape[0]):
        for s in range(part.share):
            b, h = divmod(g * part.share + s, part.heads.stop - part.heads.start)
            for first in range(0, len(run), each):
                blocks = run[first : first + each]
                rows = slice(blocks[0].start, blocks[-1].stop)
                result, total = _stack(part, v, blocks, g, s, normalise, space)
                outs[b, h, rows].view(result.shape).copy_(result)
                if total is not None:
                    lse[part.batch, part.heads][b, h, rows].view(total.shape[:2]).copy_(total.squeeze(-1))


def _stack(
    part: Part,
    v: Keys,
    blocks: list[Block],
    g: int,
    s: int,
    normalise: Normalise,
    space: Space,
) -> tuple[Tensor, Tensor | None]:
    block, n = blocks[0], len(blocks)
    size, scale, main = block.stop - block.start, part.p.scale, block.main
    assert main is not None
    spare = 0 if block.spare is None else len(block.spare)
    q = part.q[g, s, block.start : blocks[-1].stop].unflatten(0, (n, size))
    k = _windows(part.k.rows[g], main.stop - block.keys, block.keys, n, size)
    scores = space.take((n, size, block.keys), q)
    torch.baddbmm(scores, q, k.transpose(1, 2), beta=0, alpha=scale, out=scores)
    if block.spare is not None:
        aside = q.flatten(0, 1) @ part.k.aside(block.spare)[g].t()
        torch.mul(aside.view(n, size, spare), scale, out=scores[:, :, :spare])
    for edge in block.edges:
        scores[:, :, edge.first : edge.last].add_(edge.bias)
    weights, total = normalise(scores)
    values = _windows(v.rows[g], main.start, block.keys - spare, n, size)
    if block.spare is None:
        return torch.bmm(weights, values), total
    result = weights[:, :, :spare].flatten(0, 1) @ v.aside(block.spare)[g]
    return result.view(n, size, -1).baddbmm_(weights[:, :, spare:], values), total


def _windows(t: Tensor, start: int, length: int, n: int, step: int) -> Tensor:
    """Windows [n, length, width] of the rows of t, each `step` rows after the one before, without a copy."""
    return t[start : start + (n - 1) * step + length].unfold(0, length, step).transpose(1, 2)
