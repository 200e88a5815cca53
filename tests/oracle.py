"""Attention in float64 numpy, written from its formulas: what every engine must equal. It shares no code with regard."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray
Curve = Callable[[Array], Array]  # scores [B, H, N, M] -> scores
Normal = Callable[[Array, int], Array]  # the visible scores of one row, and its head -> their weights


@dataclass(frozen=True)
class Answer:
    """out [B, H, N, E], lse [B, H, N], weights [B, H, N, M]."""

    out: Array
    lse: Array
    weights: Array


def array(value: Any) -> Array:
    """Anything with numbers, as float64."""
    return np.asarray(value.detach().double().numpy() if hasattr(value, "detach") else value, dtype=np.float64)


def attention(
    q: object,
    k: object,
    v: object,
    seen: Array,
    *,
    scale: float | None = None,
    edits: Sequence[Curve] = (),
    normal: Normal | None = None,
    views: Sequence[tuple[Array, object, object]] = (),
) -> Answer:
    """Row by row over the keys that `seen`, broadcasting to [B, H, N, M], allows; query head h reads group h // (H / G).

    `views` are (pairs, q, k): the pairs are scored with that q and k instead. `normal` defaults to softmax.
    """
    values = array(v)
    B, H, N, D = array(q).shape
    G, M, E = values.shape[1:]
    scale = D**-0.5 if scale is None else scale
    seen = np.broadcast_to(seen, (B, H, N, M))
    scores = products(q, k) * scale
    for pairs, q_other, k_other in views:
        scores = np.where(pairs, products(q_other, k_other) * scale, scores)
    for edit in edits:
        scores = edit(scores)
    normal = softmax() if normal is None else normal
    out, lse = np.zeros((B, H, N, E)), np.full((B, H, N), -np.inf)
    weights = np.zeros((B, H, N, M))
    for b, h, n in np.ndindex(B, H, N):
        held = np.nonzero(seen[b, h, n])[0]
        if not len(held):
            continue
        row = scores[b, h, n, held]
        lse[b, h, n] = row.max() + math.log(np.exp(row - row.max()).sum())
        weights[b, h, n, held] = normal(row, h)
        out[b, h, n] = weights[b, h, n] @ values[b, h // (H // G)]
    return Answer(out, lse, weights)


def products(q: object, k: object) -> Array:
    q, k = array(q), array(k)
    of = q.shape[1] // k.shape[1]
    return np.stack([q[:, h] @ k[:, h // of].transpose(0, 2, 1) for h in range(q.shape[1])], 1)


def softmax(sink: Sequence[float] | None = None) -> Normal:
    """exp(s) / sum, with exp(sink of the head) added to the sum where given."""

    def normal(row: Array, h: int) -> Array:
        more = -math.inf if sink is None else sink[h]
        top = max(row.max(), more)
        return np.exp(row - top) / (np.exp(row - top).sum() + math.exp(more - top))

    return normal


def sigmoid(bias: float) -> Normal:
    return lambda row, h: 1 / (1 + np.exp(-(row + bias)))


def places(given: object, length: int, start: int, B: int, H: int) -> Array:
    """Positions [B, H, length]; without any, counted from `start`."""
    found = np.arange(start, start + length) if given is None else np.asarray(given)
    found = found[None, None] if found.ndim == 1 else found[:, None] if found.ndim == 2 else found
    return np.broadcast_to(found, (B, H, length))


def visible(formula: Callable[..., Array], i: Array, j: Array) -> Array:
    """`formula(b, h, i, j)` for query positions [B, H, N] and key positions [B, H, M]; negative ones are empty slots."""
    B, H = i.shape[:2]
    b, h = np.arange(B).reshape(-1, 1, 1, 1), np.arange(H).reshape(1, -1, 1, 1)
    i, j = i[..., :, None], j[..., None, :]
    return (i >= 0) & (j >= 0) & formula(b, h, np.maximum(i, 0), np.maximum(j, 0))


def slope(function: Callable[[list[Array]], float], at: Sequence[object], step: float = 1e-5) -> list[Array]:
    """The gradient of a number by central differences, element by element."""
    here = [array(x).copy() for x in at]
    found = [np.zeros_like(x) for x in here]
    for x, gradient in zip(here, found, strict=True):
        for place in np.ndindex(x.shape):
            kept = x[place]
            x[place] = kept + step
            above = function(here)
            x[place] = kept - step
            gradient[place] = (above - function(here)) / (2 * step)
            x[place] = kept
    return found
