"""The oracle of landmark attention: a query at a time, its blocks as lists."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def landmarks(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Grouped softmax over lists of places, with blocks chosen and distances shortened where the layer says so."""
    outs = []
    for x in tokens:
        q, k, v = (x @ one.weight.T for one in (layer.q, layer.k, layer.v))
        D = layer.dim // layer.heads
        heads = [slice(h * D, (h + 1) * D) for h in range(layer.heads)]
        rows = [torch.cat([_row(layer, q[:, h], k[:, h], v[:, h], i) for h in heads]) for i in range(len(x))]
        outs.append(torch.stack(rows) @ layer.out.weight.T)
    return torch.stack(outs)


def _row(layer: Any, q: Tensor, k: Tensor, v: Tensor, i: int) -> Tensor:
    size = layer.block + 1
    current = i // size
    last = {g: g * size + layer.block for g in range(current)}
    score = {j: _score(layer, q[i], k[j], i, j, current) for j in range(i + 1)}
    read = sorted(last, key=lambda g: -float(score[last[g]]))
    if layer.top_k is not None:
        read = read[: layer.top_k]
    own = [j for j in range(current * size, i + 1) if j % size != layer.block]
    group = own + [last[g] for g in read]
    out = torch.zeros_like(v[0])
    if not group:
        return out
    shares = dict(zip(group, torch.stack([score[j] for j in group]).softmax(0), strict=True))
    for j in own:
        out = out + shares[j] * v[j]
    for g in read:
        inside = [g * size + n for n in range(layer.block)]
        for j, share in zip(inside, torch.stack([score[j] for j in inside]).softmax(0), strict=True):
            out = out + share * shares[last[g]] * v[j]
    return out


def _score(layer: Any, q: Tensor, k: Tensor, i: int, j: int, current: int) -> Tensor:
    size, half = layer.block + 1, len(q) // 2
    distance = i - j
    if layer.top_k is not None and current - j // size > layer.top_k:
        distance = i % size + (layer.top_k + 1) * size - j % size
    total = torch.zeros((), dtype=q.dtype)
    for m in range(half):
        a, b = torch.complex(q[m], q[m + half]), torch.complex(k[m], k[m + half])
        angle = distance * layer.base ** (-m / half)
        turn = torch.polar(torch.ones((), dtype=q.dtype), torch.tensor(angle, dtype=q.dtype))
        total = total + (a * turn * b.conj()).real
    return total / math.sqrt(len(q))
