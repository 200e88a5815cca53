"""Each mask's definition in plain numpy, sharing no code with the masks, and hypothesis strategies of both together."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from hypothesis import strategies as st

from regard import masks
from regard.masks import Mask

Formula = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray]
Pair = tuple[Mask, Formula]
B, H = 2, 3  # the batch and head axes of everything that has one


def axis_table(X: int, w: int, s: int, d: int, causal: bool) -> np.ndarray:
    """Generalised neighbourhood attention along one axis, coordinate by coordinate."""
    table = np.zeros((X, X), dtype=bool)
    for c, other in product(range(X), range(X)):
        if c % d != other % d:
            continue
        p, pk, length = c // d, other // d, X // d + (1 if c % d < X % d else 0)
        if causal:
            g = min((p // s) * s + s - 1, length - 1)
            table[c, other] = pk <= p and g - pk < w
        else:
            left, right = w // 2, w // 2 - (1 if w % 2 == 0 else 0)
            g = min((p // s) * s + s // 2, length - 1)
            centre = max(left, min(g, length - 1 - right))
            table[c, other] = centre - left <= pk <= centre + right
    return table


def neighbourhood_formula(shape, window, stride, dilation, causal) -> Formula:
    tables = [axis_table(*setting) for setting in zip(shape, window, stride, dilation, causal, strict=True)]
    total = int(np.prod(shape))

    def formula(b, h, i, j):
        i, j = np.broadcast_arrays(i, j)
        seen = (i < total) & (j < total)
        x = np.unravel_index(np.minimum(i, total - 1), shape)
        y = np.unravel_index(np.minimum(j, total - 1), shape)
        for table, u, v in zip(tables, x, y, strict=True):
            seen = seen & table[u, v]
        return seen

    return formula


def power_formula(block: int, window: int, sinks: int) -> Formula:
    def one(i: int, j: int) -> bool:
        delta = i // block - j // block
        return j <= i and (delta < window or j // block < sinks or (delta > 0 and delta & (delta - 1) == 0))

    each = np.vectorize(one, otypes=[bool])
    return lambda b, h, i, j: each(i, j)


def documents_formula(ids: np.ndarray) -> Formula:
    def formula(b, h, i, j):
        T = ids.shape[1]
        row = b if len(ids) > 1 else np.zeros_like(b)
        same = ids[row, np.minimum(i, T - 1)] == ids[row, np.minimum(j, T - 1)]
        return same & (i < T) & (j < T)

    return formula


def blocks_formula(table: np.ndarray, rows: int, cols: int) -> Formula:
    full = np.zeros((*table.shape[:2], 400, 400), dtype=bool)
    big = table.repeat(rows, 2).repeat(cols, 3)[:, :, :400, :400]
    full[:, :, : big.shape[2], : big.shape[3]] = big
    return lambda b, h, i, j: full[b * (len(full) > 1), h * (full.shape[1] > 1), i, j]


def keys_formula(index: np.ndarray, start: int) -> Formula:
    full = np.zeros((*index.shape[:2], 400, 400), dtype=bool)
    for b, h, n, k in np.ndindex(*index.shape):
        if index[b, h, n, k] >= 0:
            full[b, h, start + n, index[b, h, n, k]] = True
    return lambda b, h, i, j: full[b * (len(full) > 1), h * (full.shape[1] > 1), i, j]


def _shaped(draw, axes: int) -> tuple[int, ...]:
    """Leading axes: none, or any of B and H."""
    return draw(st.sampled_from([(), (H,), (B, H), (1, H), (B, 1)] if axes == 2 else [(), (B,)]))


@st.composite
def simple_leaves(draw, far: int) -> Pair:
    """Leaves made of numbers; `far` is about the number of positions."""
    near = st.integers(1, max(2, far // 3))
    kind = draw(st.sampled_from(["everything", "causal", "window", "first", "chunks", "dilated", "strided", "power"]))
    if kind == "everything":
        return masks.everything, lambda b, h, i, j: (i >= 0) & (j >= 0)
    if kind == "causal":
        return masks.causal(), lambda b, h, i, j: j <= i
    if kind == "window":
        size, ahead = draw(near), draw(st.sampled_from([0, 1, 5]))
        return masks.window(size, ahead), lambda b, h, i, j: (i - size < j) & (j <= i + ahead)
    if kind == "first":
        n = draw(st.integers(0, far))
        return draw(st.sampled_from([masks.sinks, masks.prefix]))(n), lambda b, h, i, j: (j < n) & (i >= 0)
    if kind == "chunks":
        size = draw(near)
        return masks.chunks(size), lambda b, h, i, j: i // size == j // size
    if kind == "dilated":
        size, step = draw(st.integers(1, 6)), draw(st.integers(1, 5))
        return masks.dilated(size, step), lambda b, h, i, j: np.isin(i - j, [n * step for n in range(size)])
    if kind == "strided":
        step = draw(st.integers(1, 7))
        return masks.strided(step), lambda b, h, i, j: (i - j) % step == 0
    setting = draw(st.integers(1, 6)), draw(st.integers(1, 5)), draw(st.integers(0, 2))
    return masks.power(*setting), power_formula(*setting)


@st.composite
def neighbourhoods(draw, far: int) -> Pair:
    axes = draw(st.integers(1, 3))
    most = {1: far + 4, 2: 12 if far < 100 else 24, 3: 6 if far < 100 else 9}[axes]
    shape = tuple(draw(st.integers(1, most)) for _ in range(axes))
    window, stride, dilation, causal = [], [], [], []
    for length in shape:
        dilation.append(draw(st.integers(1, min(3, length))))
        window.append(draw(st.integers(1, length // dilation[-1])))
        stride.append(draw(st.integers(1, window[-1])))
        causal.append(draw(st.booleans()))
    setting = (shape, tuple(window), tuple(stride), tuple(dilation), tuple(causal))
    return masks.neighbourhood(*setting), neighbourhood_formula(*setting)


@st.composite
def tensor_leaves(draw, far: int) -> Pair:
    """Leaves that hold tensors, with or without batch and head axes."""
    seed = np.random.default_rng(draw(st.integers(0, 2**16)))
    kind = draw(st.sampled_from(["documents", "blocks", "keys", "predicate"]))
    if kind == "documents":
        ids = seed.integers(0, draw(st.integers(1, 5)), (*_shaped(draw, 1), draw(st.integers(1, far + 4))))
        ids = np.sort(ids, -1) if draw(st.booleans()) else ids
        return masks.documents(torch.from_numpy(ids)), documents_formula(ids.reshape(-1, ids.shape[-1]))
    if kind == "blocks":
        rows, cols = draw(st.integers(1, 7)), draw(st.integers(1, 7))
        table = seed.random(
            (*_shaped(draw, 2), draw(st.integers(1, far // rows + 1)), draw(st.integers(1, far // cols + 1)))
        )
        table = table < draw(st.sampled_from([0.1, 0.5, 0.95]))
        return masks.blocks(torch.from_numpy(table), (rows, cols)), blocks_formula(
            table.reshape((1,) * (4 - table.ndim) + table.shape), rows, cols
        )
    if kind == "keys":
        lead = draw(st.sampled_from([(), (B,), (B, H), (1, H)]))
        start = draw(st.integers(0, 3))
        index = seed.integers(-1, far, (*lead, draw(st.integers(1, far)), draw(st.integers(1, 9))))
        four = index[None, None] if len(lead) == 0 else index[:, None] if len(lead) == 1 else index
        return masks.keys(torch.from_numpy(index), start), keys_formula(four, start)
    if draw(st.booleans()):
        return masks.predicate(lambda b, h, i, j: (3 * i + 5 * j) % 7 < 3), lambda b, h, i, j: (3 * i + 5 * j) % 7 < 3
    return (
        masks.predicate(lambda b, h, i, j: (i + 2 * j + b + 3 * h) % 5 < 3),
        lambda b, h, i, j: (i + 2 * j + b + 3 * h) % 5 < 3,
    )


def leaves(far: int) -> st.SearchStrategy[Pair]:
    return st.one_of(simple_leaves(far), simple_leaves(far), neighbourhoods(far), tensor_leaves(far))


def _joined(pairs: tuple[Pair, Pair], sign: str) -> Pair:
    (a, f), (b, g) = pairs
    if sign == "&":
        return a & b, lambda *x: f(*x) & g(*x)
    return a | b, lambda *x: f(*x) | g(*x)


def _negated(pair: Pair) -> Pair:
    return ~pair[0], lambda *x: ~pair[1](*x)


def _by_head(pairs: list[Pair]) -> Pair:
    def formula(b, h, i, j):
        found = [f(b, np.full_like(h, n), i, j) for n, (_, f) in enumerate(pairs)]
        return np.select([np.broadcast_to(h == n, np.broadcast(h, f).shape) for n, f in enumerate(found)], found, False)

    return masks.per_head([m for m, _ in pairs]), formula


def expressions(far: int) -> st.SearchStrategy[Pair]:
    """Random expressions of up to three operators on a path."""
    level = leaves(far)
    for _ in range(3):
        level = st.one_of(
            leaves(far),
            level.map(_negated),
            st.builds(_joined, st.tuples(level, level), st.sampled_from(["&", "|"])),
            st.lists(level, min_size=H, max_size=H).map(_by_head),
        )
    return level


def positions(length: int, far: int) -> st.SearchStrategy[torch.Tensor | None]:
    """None, or positions with holes, empty slots, repeats, in any order, with or without batch and head axes."""

    @st.composite
    def draw_positions(draw) -> torch.Tensor | None:
        kind = draw(st.sampled_from(["default", "counting", "padded", "sorted", "any"]))
        if kind == "default":
            return None
        lead = draw(st.sampled_from([(), (B,), (B, H), (1, H)]))
        seed = np.random.default_rng(draw(st.integers(0, 2**16)))
        if kind in ("counting", "padded"):
            start = seed.integers(0 if kind == "counting" else -length, 4, (*lead, 1))
            found = start + np.arange(length)
            return torch.from_numpy(np.maximum(found, -1) if draw(st.booleans()) else found)
        found = seed.integers(-1 - far // 4, far, (*lead, length))
        return torch.from_numpy(np.sort(found, -1) if kind == "sorted" else found)

    return draw_positions()


def dense(formula: Formula, N: int, M: int, q: torch.Tensor | None, k: torch.Tensor | None) -> np.ndarray:
    """The formula on every pair: [B, H, N, M]; empty slots see nothing and are not seen."""

    def full(given: torch.Tensor | None, length: int, start: int) -> np.ndarray:
        found = np.arange(start, start + length) if given is None else given.numpy()
        found = found[None, None] if found.ndim == 1 else found[:, None] if found.ndim == 2 else found
        return np.broadcast_to(found, (B, H, length))

    i, j = full(q, N, M - N)[..., :, None], full(k, M, 0)[..., None, :]
    real = (i >= 0) & (j >= 0)
    b, h = np.arange(B).reshape(-1, 1, 1, 1), np.arange(H).reshape(1, -1, 1, 1)
    return np.broadcast_to(formula(b, h, np.maximum(i, 0), np.maximum(j, 0)), (B, H, N, M)) & real
