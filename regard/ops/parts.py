"""The parts of a problem that share a list of blocks, and the batched matrix products of one block."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from regard.masks import Mask, TilePlan, cached_tiles
from regard.ops.engine import apply_edits, wide
from regard.ops.problem import Problem
from regard.ops.runs import Block, blocks

ROWS, COLS = 64, 64  # queries and keys a tile, chosen by measurement (`make bench`)


class Space:
    """Memory that one block leaves to the next: fresh memory for every block would cost more than the products."""

    def __init__(self) -> None:
        self.held: Tensor | None = None

    def reserve(self, size: int, like: Tensor) -> Tensor:
        """Memory for this many numbers at least."""
        if self.held is None or self.held.numel() < size:
            self.held = like.new_empty(size)
        return self.held

    def take(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """A tensor of this shape, with whatever is in it."""
        size = math.prod(shape)
        return self.reserve(size, like)[:size].view(shape)


class Keys:
    """Keys or values [b * g, M, width] of a part, and the rows of spare slots, which many blocks share."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows
        self._spare: Tensor | None = None
        self._aside = rows

    def aside(self, spare: Tensor) -> Tensor:
        """The rows of a block's spare slots."""
        if self._spare is not spare:
            self._spare, self._aside = spare, self.rows.index_select(1, spare)
        return self._aside

    def laid(self, block: Block, extra: int = 0) -> Tensor:
        """The rows under a block's columns; under spare and extra columns, whatever lies there."""
        if block.index is not None:
            return self.rows.index_select(1, block.index)
        assert block.main is not None
        return self.rows[:, block.main.stop - block.keys - extra : block.main.stop]


class Part:
    """The batch rows and heads of one problem that share a list of blocks.

    Shapes: q [b * g, share, N, D], k [b * g, M, D]; heads of one group stand beside each other as rows.
    """

    def __init__(self, p: Problem, batch: slice, heads: slice, blocks: list[Block]) -> None:
        self.p, self.batch, self.heads, self.blocks = p, batch, heads, blocks
        self.kind = wide(p.q.dtype)
        of = p.H // p.G
        self.groups = slice(heads.start // of, (heads.stop - 1) // of + 1)
        self.share = min(of, heads.stop - heads.start)
        self.q, self.k = self.rows(p.q), self.keys(p.k)

    def keys(self, t: Tensor) -> Keys:
        """Keys or values of these groups."""
        return Keys(t[self.batch, self.groups].to(self.kind).flatten(0, 1))

    def rows(self, t: Tensor) -> Tensor:
        """Queries, or what goes with them, as [b * g, share, N, width]."""
        return t[self.batch, self.heads].to(self.kind).unflatten(1, (-1, self.share)).flatten(0, 1)

    @property
    def room(self) -> int:
        """How many numbers the largest block's scores take."""
        largest = max([0, *(block.keys * (block.stop - block.start) for block in self.blocks)])
        return self.q.shape[0] * self.share * largest

    def into(self, t: Tensor, block: Block) -> Tensor:
        """Where a block's rows stand in a tensor over all heads and queries."""
        return t[self.batch, self.heads, block.start : block.stop]

    def scores(self, block: Block, extra: int = 0, space: Space | None = None) -> Tensor:
        """Masked scores [b * g, share * rows, extra + keys] of one block; the first `extra` columns are for others."""
        q, k, scale = cut(self.q, block), self.k.laid(block, extra), self.p.scale
        shape = (*q.shape[:2], k.shape[1])
        into = q.new_empty(shape) if space is None else space.take(shape, q)
        # Scaled in the product: a scaled copy of all queries would be fresh memory, which costs more than the products.
        scores = torch.baddbmm(into, q, k.transpose(1, 2), beta=0, alpha=scale, out=into)
        if block.spare is not None:
            over = scores[:, :, extra : extra + len(block.spare)]
            over.copy_(torch.baddbmm(over, q, self.k.aside(block.spare).transpose(1, 2), beta=0, alpha=scale))
        if self.p.edits:
            scores = self._edited(scores, block)
        apart = scores if self.share == 1 else scores.view(scores.shape[0], self.share, -1, scores.shape[2])
        for edge in block.edges:
            apart[..., extra + edge.first : extra + edge.last].add_(edge.bias)
        return scores

    def read(self, weights: Tensor, v: Keys, block: Block, extra: int = 0) -> Tensor:
        """Weights times values, the first `extra` columns left out."""
        if block.spare is None:
            return torch.bmm(weights[:, :, extra:], v.laid(block))
        first = extra + len(block.spare)
        out = torch.bmm(weights[:, :, extra:first], v.aside(block.spare))
        return out.baddbmm_(weights[:, :, first:], v.rows[:, block.main])

    def empty(self, block: Block) -> Tensor | None:
        """Rows that see nothing, [share * rows, 1]."""
        return None if block.empty is None else block.empty.repeat(self.share).unsqueeze(-1)

    def _edited(self, scores: Tensor, block: Block) -> Tensor:
        p, batch, heads, device = self.p, self.batch, self.heads, scores.device
        b = torch.arange(batch.start, batch.stop, device=device).view(-1, 1, 1, 1)
        h = torch.arange(heads.start, heads.stop, device=device).view(1, -1, 1, 1)
        rows = torch.arange(block.start, block.stop, device=device)
        slots = block.slots.to(device)
        shaped = scores.view(len(b), h.shape[1], len(rows), block.keys)
        i, j = (_of(t, batch, heads)[..., where] for t, where in ((p.i, rows), (p.j, slots)))
        shaped = apply_edits(p.edits, shaped, b, h, (i.unsqueeze(-1), j.unsqueeze(-2)), (rows.view(-1, 1), slots))
        return shaped.reshape(scores.shape)


def _of(positions: Tensor, batch: slice, heads: slice) -> Tensor:
    over_b, over_h = positions.shape[0] > 1, positions.shape[1] > 1
    return positions[batch if over_b else slice(0, 1), heads if over_h else slice(0, 1)]


def cut(rows: Tensor, block: Block) -> Tensor:
    """A block's queries out of [b * g, share, N, width], as [b * g, share * rows, width]."""
    part = rows[:, :, block.start : block.stop]
    return part[:, 0] if rows.shape[1] == 1 else part.flatten(1, 2)


def _size(mask: Mask) -> tuple[int, int]:
    """Tiles of the grain that the mask was chosen in, where that is a good size to compute with."""
    rows, cols = mask.grain or (ROWS, COLS)
    return rows if 32 <= rows <= 128 else ROWS, cols if 32 <= cols <= 256 else COLS


def work(p: Problem) -> list[list[Part]]:
    """For each range of batch rows and heads that share their blocks: the problem's part, and one for each view."""
    parts = p.parts()
    size = _size(p.where)
    plans = [_plan(part, size) for part in parts]
    over_b, over_h = (max(plan.status.shape[axis] for plan in plans) for axis in (0, 1))
    work = []
    for b in range(over_b):
        batch = slice(b, b + 1) if over_b > 1 else slice(0, p.B)
        for h in range(over_h):
            heads = slice(h, h + 1) if over_h > 1 else slice(0, p.H)
            work.append(
                [
                    Part(part, batch, heads, blocks(plan, *_lead(plan, b, h), wide(p.q.dtype), p.q.device))
                    for part, plan in zip(parts, plans, strict=True)
                ]
            )
    return work


def _plan(p: Problem, size: tuple[int, int]) -> TilePlan:
    if not p.explicit:
        return cached_tiles(p.where, p.N, p.M, size, batch=p.B, heads=p.H)
    return p.where.tiles(p.N, p.M, size, batch=p.B, heads=p.H, q_positions=p.q_positions, k_positions=p.k_positions)


def _lead(plan: TilePlan, b: int, h: int) -> tuple[int, int]:
    return min(b, plan.status.shape[0] - 1), min(h, plan.status.shape[1] - 1)
