"""Oracles for what reads in segments."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def rmat(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """A token at a time; the memory is a list."""
    outs = []
    for x in tokens:
        slots: list[Tensor] = []
        done: list[Tensor] = []
        for t in range(len(x)):
            first = t - t % layer.segment
            inside, chunk = range(first, t + 1), range(t - (t - first) % layer.chunk, t + 1)
            paths = [_look(layer, x, t, first, inside), _look(layer, x, t, first, chunk)]
            if slots:
                paths.append(_remember(layer, x[t], slots))
            shares = layer.weights[: len(paths)].softmax(0)
            done.append(layer.out.weight @ sum(share * path for share, path in zip(shares, paths, strict=True)))
            if (t + 1) % layer.segment == 0:
                for start in range(first, t + 1, layer.chunk):
                    mean = torch.stack(done[start : start + layer.chunk]).mean(0)
                    slots = _write(layer, slots, mean)[-layer.slots :]
        outs.append(torch.stack(done))
    return torch.stack(outs)


def _write(layer: Any, slots: list[Tensor], mean: Tensor) -> list[Tensor]:
    old = slots[-1] if slots else torch.zeros_like(mean)
    g = torch.sigmoid(layer.gate.weight @ torch.cat([old, mean]) + layer.gate.bias)
    return [*slots, g * old + (1 - g) * torch.tanh(layer.update.weight @ mean + layer.update.bias)]


def _look(layer: Any, x: Tensor, t: int, first: int, places: range) -> Tensor:
    q = layer.q.weight @ x[t]
    keys, values = [layer.k.weight @ x[j] for j in places], [layer.v.weight @ x[j] for j in places]
    D, outs = layer.dim // layer.heads, []
    for h in range(layer.heads):
        own = slice(h * D, (h + 1) * D)
        base = layer.base * layer.bases ** (h / max(layer.heads - 1, 1))
        scores = [
            _turned(q[own], t - first, base) @ _turned(k[own], j - first, base)
            for k, j in zip(keys, places, strict=True)
        ]
        weights = (torch.stack(scores) / math.sqrt(D)).softmax(0)
        outs.append(weights @ torch.stack([v[own] for v in values]))
    return torch.cat(outs)


def _remember(layer: Any, token: Tensor, slots: list[Tensor]) -> Tensor:
    q, D, outs = layer.q.weight @ token, layer.dim // layer.heads, []
    bank = torch.stack(slots)
    keys, values = bank @ layer.memory_k.weight.T, bank @ layer.memory_v.weight.T
    for h in range(layer.heads):
        own = slice(h * D, (h + 1) * D)
        outs.append((keys[:, own] @ q[own] / math.sqrt(D)).softmax(0) @ values[:, own])
    return torch.cat(outs)


def _turned(x: Tensor, place: int, base: float) -> Tensor:
    half = len(x) // 2
    angles = place * torch.tensor([base ** (-m / half) for m in range(half)], dtype=x.dtype)
    a, b = x[:half], x[half:]
    return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()])
