"""Landmark attention: a token that closes each block stands for it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.rotary import even, frequencies, turned
from regard.mechanisms.slot import divide


class LandmarkAttention(Layer):
    """Attention to a token of an earlier block goes through the landmark that closes the block.

    The last of every `block` + 1 tokens is a landmark; `insert_landmarks` puts them into a text. The weights of an
    earlier block's tokens are a softmax among themselves times the weight of their landmark, which takes part in the
    softmax of the query's own block. With `top_k`, as in inference, a query reads but the `top_k` earlier blocks whose
    landmarks score best, and no distance is longer than (top_k + 2) (block + 1): blocks before the latest `top_k` count
    as the one before those.

    Shapes: tokens [B, N, dim] to [B, N, dim].
    Raises: ShapeError where `dim` is not a multiple of `heads`, or a head's width is odd; ValueError where `block` or
    `top_k` is below 1.
    Source: "Landmark Attention: Random-Access Infinite Context Length for Transformers", 2305.16300, section 3.
    Differs from the paper: landmarks stand at fixed places; with `top_k` every key is scored before blocks are chosen,
    so that less is read but not less computed.
    """

    spec: ClassVar[Spec] = Spec(
        id="landmark_attention",
        slot="layer",
        source=Source(
            "Landmark Attention: Random-Access Infinite Context Length for Transformers",
            "2305.16300",
            "section 3",
            authors="Mohtashami, Amirkeivan and Jaggi, Martin",
        ),
        what="Attention to an earlier block goes through the landmark token that closes it.",
        formula="w_ij = softmax over own block's tokens and earlier landmarks (s_i)_j            j in i's own block\n"
        "w_ij = softmax over block g's tokens (s_i)_j  *  w_i,landmark(g) of the first softmax   j in block g\n"
        "out_i = sum_j w_ij v_j,  landmarks' own values are not read",
        bidirectional=False,
        gqa=False,
        cost=Cost(time=2, state=1),
        limits=(Limit("landmarks"), Limit("landmarks", block=3), Limit("landmarks", block=1, top_k=2)),
        variants=({"block": 3}, {"block": 2, "top_k": 1}),
        bfloat16=12.0,  # where two blocks score alike, rounding chooses another one to read
    )

    def __init__(
        self, dim: int, heads: int, *, block: int = 50, top_k: int | None = None, base: float = 10000.0
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.block, self.top_k, self.base = dim, heads, block, top_k, base
        self.at_least(block=1, base=1)
        if top_k is not None:
            self.at_least(top_k=1)
        even("LandmarkAttention", divide("LandmarkAttention", dim, heads))
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        start(self)

    def attend(self, call: Call) -> Tensor:
        q, k, v = (split(one(call.tokens), self.heads) for one in (self.q, self.k, self.v))
        N = q.shape[2]
        at = call.q_at(N, N)
        if call.documents is not None:
            at = torch.where(at < 0, -1, at - call.starts)
        return self._read(q, k, v, at, at, call.visible(N, N))

    def begin(self, batch: int) -> Held:
        return Held()

    def advance(self, inner: Held, call: Call) -> tuple[Tensor, Held]:
        q, k, v = (split(one(call.tokens), self.heads) for one in (self.q, self.k, self.v))
        at = call.q_at(q.shape[2], q.shape[2])
        held = inner.append((k, v), at)
        assert held.positions is not None
        keys, values = held.parts
        seen = call.with_(k_positions=held.positions).visible(q.shape[2], keys.shape[2])
        return self._read(q, keys, values, at, held.positions, seen), held

    def _read(self, q: Tensor, k: Tensor, v: Tensor, i: Tensor, j: Tensor, seen: Tensor) -> Tensor:
        """Queries at places i [B|1, N] over keys at places j [B|1, M] that are seen [B|1, 1, N, M]."""
        size, wide = self.block + 1, torch.promote_types(q.dtype, torch.float32)
        q, k = q.to(wide) * q.shape[-1] ** -0.5, k.to(wide)
        steps = frequencies(q.shape[-1], self.base, q)
        scores = turned(q, i, steps) @ turned(k, j, steps).transpose(-1, -2)
        own, other = (i // size)[:, None, :, None], (j // size)[:, None, None, :]
        if self.top_k is not None:
            far = own - other > self.top_k
            near = turned(q, i % size + (self.top_k + 1) * size, steps) @ turned(k, j % size, steps).transpose(-1, -2)
            scores = torch.where(far, near, scores)
        landmark = (j % size == self.block)[:, None, None, :]
        blocks = torch.where(j < 0, 0, j // size)
        if self.top_k is not None:
            seen = seen & self._chosen(scores, seen & landmark & (other < own), other, own)
        weights = grouped_softmax(scores, landmark, seen, own, other, blocks)
        return self.out(join((weights @ v.to(wide)).to(v.dtype)))

    def _chosen(self, scores: Tensor, marks: Tensor, other: Tensor, own: Tensor) -> Tensor:
        """Who is in a query's own block or in one of the `top_k` whose landmarks score best, [B, H, N, M]."""
        found = scores.detach().masked_fill(~marks, -torch.inf)
        count = min(self.top_k or 1, found.shape[-1])
        best, where = found.topk(count, -1)
        block = other.expand(found.shape).gather(-1, where).masked_fill(best == -torch.inf, -1)
        chosen = (other[..., None] == block[..., None, :]).any(-1)
        return chosen | (other == own)


def grouped_softmax(
    scores: Tensor, landmark: Tensor, seen: Tensor, own: Tensor, other: Tensor, blocks: Tensor
) -> Tensor:
    """Weights of each row: a softmax over the own block and the earlier landmarks, and one inside each earlier block.

    Shapes: scores [B, H, N, M]; landmark [B|1, 1, 1, M] and seen [B|1, 1|H, N, M] booleans; own [B|1, 1, N, 1] and
    other [B|1, 1, 1, M], the block of each query and key; blocks [B|1, M], the same for keys and never negative.
    Raises: ShapeError where there are as many landmarks as keys.
    """
    if not scores.is_meta and bool(landmark.all()) and landmark.shape[-1] > 1:
        raise ShapeError("grouped_softmax: every key is a landmark, so that none is left to read. Type a larger block.")
    earlier = seen & (other < own)
    first = (seen & (other == own) & ~landmark) | (earlier & landmark)
    within = earlier & ~landmark
    top = _shares(scores, first)
    count = int(blocks.max()) + 1 if blocks.numel() else 1
    index = blocks[:, None, None, :].expand(scores.shape)
    hidden = scores.masked_fill(~within, -torch.inf)
    best = scores.new_full((*scores.shape[:-1], count), -torch.inf).scatter_reduce(-1, index, hidden.detach(), "amax")
    best = best.masked_fill(best == -torch.inf, 0.0)
    powers = (hidden - best.gather(-1, index)).exp()
    sums = torch.zeros_like(best).scatter_add(-1, index, powers)
    through = torch.zeros_like(best).scatter_add(-1, index, top * (earlier & landmark))
    inside = powers / torch.where(sums > 0, sums, 1.0).gather(-1, index)
    return torch.where(landmark, 0.0, top) + inside * through.gather(-1, index)


def insert_landmarks(ids: Tensor, block: int, landmark: int) -> Tensor:
    """Ids [B, N] with the landmark's id after every `block` of them, [B, N + N // block].

    Raises: ValueError where `block` is below 1.
    """
    if block < 1:
        raise ValueError(f"insert_landmarks needs block >= 1; got {block}.")
    N = ids.shape[1]
    full = ids[:, : N - N % block].unflatten(1, (-1, block))
    marks = torch.full_like(full[..., :1], landmark)
    return torch.cat([torch.cat([full, marks], 2).flatten(1), ids[:, N - N % block :]], 1)


def _shares(scores: Tensor, seen: Tensor) -> Tensor:
    """Softmax over what is seen; zeros where nothing is."""
    hidden = scores.masked_fill(~seen, -torch.inf)
    most = hidden.detach().amax(-1, keepdim=True)
    powers = (hidden - most.masked_fill(most == -torch.inf, 0.0)).exp()
    total = powers.sum(-1, keepdim=True)
    return powers / torch.where(total > 0, total, 1.0)
