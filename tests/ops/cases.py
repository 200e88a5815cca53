"""Problems and engines that the tests of attend share: masks with their formulas, shapes, and what each engine refuses."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from regard import masks
from regard.masks import Mask
from regard.ops import RowBlocks
from tests import oracle

ENGINES = {
    "reference": "reference",
    "rows": "rows",
    "rows_7": RowBlocks(queries=7),
    "rows_16x30": RowBlocks(queries=16, keys=30),
    "tiles": "tiles",
    "sdpa": "sdpa",
}


@dataclass(frozen=True)
class Shape:
    B: int
    H: int
    G: int
    N: int
    M: int
    D: int
    E: int


SHAPES = {
    "square": Shape(2, 4, 2, 70, 70, 8, 8),
    "few_queries": Shape(1, 3, 1, 9, 150, 16, 16),
    "one_query": Shape(2, 2, 2, 1, 133, 8, 8),
    "more_queries_than_keys": Shape(1, 2, 1, 40, 23, 8, 8),
    "wide_values": Shape(1, 2, 2, 33, 50, 8, 12),
    "narrow_values": Shape(2, 3, 3, 20, 20, 12, 4),
    "whole_tiles": Shape(1, 2, 1, 128, 256, 4, 4),
    "many_tiles": Shape(1, 4, 2, 130, 400, 4, 4),
    "single": Shape(1, 1, 1, 1, 1, 4, 4),
}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensors(s: Shape, dtype: torch.dtype = torch.float64, seed: int = 0, size: float = 1.0) -> tuple[Tensor, ...]:
    """q, k and v with normal entries."""
    make = seeded(seed)
    shapes = ((s.B, s.H, s.N, s.D), (s.B, s.G, s.M, s.D), (s.B, s.G, s.M, s.E))
    q, k, v = (torch.randn(shape, generator=make, dtype=torch.float64) for shape in shapes)
    return (size * q).to(dtype), k.to(dtype), v.to(dtype)


Pair = tuple[Mask | None, Callable[..., np.ndarray]]


def _documents(s: Shape) -> Pair:
    ids = torch.randint(0, 3, (s.B, max(s.M, s.N)), generator=seeded(1)).sort(-1).values
    table = ids.numpy()
    return (
        masks.documents(ids) & masks.causal(),
        lambda b, h, i, j: (table[b, i] == table[b, j]) & (j <= i),
    )


def _per_head(s: Shape) -> Pair:
    kinds = [masks.causal(), masks.window(6), masks.sinks(2)]

    def formula(b, h, i, j):
        return np.where(h % 3 == 0, j <= i, np.where(h % 3 == 1, (i - 6 < j) & (j <= i), j < 2))

    return masks.per_head([kinds[h % 3] for h in range(s.H)]), formula


def _blocks(s: Shape) -> Pair:
    table = torch.rand(s.B, s.H, s.M // 16 + 1, s.M // 16 + 1, generator=seeded(2)) < 0.4
    held = table.numpy()
    return masks.blocks(table, 16), lambda b, h, i, j: held[b, h, i // 16, j // 16]


def _keys(s: Shape) -> Pair:
    index = torch.randint(-1, s.M, (s.B, s.H, s.M, 3), generator=seeded(3))
    lists = index.numpy()
    return masks.keys(index), lambda b, h, i, j: (lists[b, h, i] == j[..., None]).any(-1)


MASKS: dict[str, Callable[[Shape], Pair]] = {
    "none": lambda s: (None, lambda b, h, i, j: (i == i) & (j == j)),
    "causal": lambda s: (masks.causal(), lambda b, h, i, j: j <= i),
    "window_and_sinks": lambda s: (
        masks.causal() & (masks.window(20) | masks.sinks(3)),
        lambda b, h, i, j: (j <= i) & ((i - 20 < j) | (j < 3)),
    ),
    "future": lambda s: (~masks.causal(), lambda b, h, i, j: j > i),
    "two_sided": lambda s: (masks.window(5, ahead=3), lambda b, h, i, j: (i - 5 < j) & (j <= i + 3)),
    "prefix": lambda s: (masks.causal() | masks.prefix(11), lambda b, h, i, j: (j <= i) | (j < 11)),
    "dilated": lambda s: (
        masks.dilated(4, 9),
        lambda b, h, i, j: (j <= i) & ((i - j) % 9 == 0) & (i - j < 36),
    ),
    "chunks": lambda s: (masks.chunks(24), lambda b, h, i, j: i // 24 == j // 24),
    "documents": _documents,
    "per_head": _per_head,
    "blocks": _blocks,
    "keys": _keys,
    "nothing": lambda s: (~masks.everything, lambda b, h, i, j: (i != i) & (j == j)),
}


@dataclass(frozen=True)
class Case:
    """A problem with its answer."""

    q: Tensor
    k: Tensor
    v: Tensor
    where: Mask | None
    seen: np.ndarray
    answer: oracle.Answer


@functools.cache
def case(mask: str, shape: str, dtype: torch.dtype = torch.float64) -> Case:
    """The problem of one mask and one shape, with default positions; don't write into it."""
    s = SHAPES[shape]
    q, k, v = tensors(s, dtype)
    where, formula = MASKS[mask](s)
    i, j = oracle.places(None, s.N, s.M - s.N, s.B, s.H), oracle.places(None, s.M, 0, s.B, s.H)
    seen = oracle.visible(formula, i, j)
    return Case(q, k, v, where, seen, oracle.attention(q, k, v, seen))


def bound(q: Tensor, k: Tensor, v: Tensor, dtype: torch.dtype, scale: float | None = None, more: float = 0.0) -> float:
    """The largest error that rounding in `dtype` can cause in one output, to first order.

    A score of D products errs by at most (D + 2) u |q||k| scale, and by u for each unit of `more`, what edits add to
    scores; a softmax over M keys turns a score's error d into a relative error of 2 d + (M + 4) u, and so does the sum
    of M values.
    """
    u = torch.finfo(dtype).eps / 2
    q, k, v = q.detach().double(), k.detach().double(), v.detach().double()
    largest = float(q.norm(dim=-1).max() * k.norm(dim=-1).max()) * (scale or q.shape[-1] ** -0.5)
    wrong = ((q.shape[-1] + 2) * largest + more) * u
    return (2 * wrong + 2 * (k.shape[2] + 4) * u) * float(v.abs().max())


def assert_equals(found: Tensor, expected: np.ndarray, atol: float) -> None:
    assert found.shape == expected.shape
    torch.testing.assert_close(
        found.detach().double(), torch.from_numpy(np.ascontiguousarray(expected)), rtol=0, atol=atol
    )
