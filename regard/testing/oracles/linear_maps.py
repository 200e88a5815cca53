"""Oracles for linear attention written out pair by pair, weights first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_Row = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def pooled_by_features(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Efficient attention: each feature's softmax over the tokens, and each query's over the features."""

    def row(q: Tensor, k: Tensor, v: Tensor, head: int) -> Tensor:
        total: Any = 0.0
        for f in range(q.shape[-1]):
            over = torch.exp(k[:, :, f] - k[:, :, f].max(1, keepdim=True).values)
            share = torch.exp(q[:, f] - torch.logsumexp(q, -1))
            total = total + (share / over.sum(1))[:, None] * (over[..., None] * v).sum(1)
        return total

    return _by_rows(layer, tokens, memory, causal, row)


def scaled_products(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Products of queries and keys over the number of keys, as weights."""
    return _by_rows(
        layer, tokens, memory, causal, lambda q, k, v, head: ((q[:, None] * k).sum(-1, keepdim=True) * v).mean(1)
    )


def polynomial_weights(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Fastmax: f of every product, divided by their sum."""
    mixer = layer.mixer
    a = list(mixer.coeffs) + [0.0] * (3 - len(mixer.coeffs))

    def normed(x: Tensor) -> Tensor:
        if mixer.normalise == "standard":
            off = x - x.sum(-1, keepdim=True) / x.shape[-1]
            return off / torch.sqrt((off * off).sum(-1, keepdim=True) / x.shape[-1] + 1e-6)
        return x / torch.sqrt((x * x).sum(-1, keepdim=True)) if mixer.normalise == "l2" else x

    def row(q: Tensor, k: Tensor, v: Tensor, head: int) -> Tensor:
        x = (normed(q)[:, None] * normed(k)).sum(-1) / mixer.temperature
        weights = a[0] + a[1] * x + a[2] * x * x
        return (weights[..., None] * v).sum(1) / weights.sum(1, keepdim=True)

    return _by_rows(layer, tokens, memory, causal, row)


@torch.no_grad()
def rectified_products(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """L2ViT: rectified products over their sum, or over the bound where that is more."""
    mixer = layer.mixer

    def row(q: Tensor, k: Tensor, v: Tensor, head: int) -> Tensor:
        products = (q.clamp(min=0)[:, None] * k.clamp(min=0)).sum(-1)
        outs = []
        for b in range(q.shape[0]):
            bound = max(float(products[b].sum()), mixer.min_denominator)
            outs.append((products[b][:, None] * v[b]).sum(0) * float(mixer.temperature[head]) / bound)
        return torch.stack(outs)

    return _by_rows(layer, tokens, memory, causal, row)


def _by_rows(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool, row: _Row) -> Tensor:
    """The layer of plain heads whose queries are answered one at a time: q [B, D], k and v of what it sees."""
    y = tokens if memory is None else memory
    w: dict[str, Tensor] = layer.state_dict(keep_vars=True)
    D, outs = layer.dim // layer.heads, []
    for head in range(layer.heads):
        own = slice(head * D, (head + 1) * D)
        q, k, v = (x @ w[f"projection.{name}.weight"][own].T for name, x in (("q", tokens), ("k", y), ("v", y)))
        rows = []
        for i in range(q.shape[1]):
            last = i + 1 if causal else k.shape[1]
            rows.append(row(q[:, i], k[:, :last], v[:, :last], head))
        outs.append(torch.stack(rows, 1))
    return torch.cat(outs, -1) @ w["merge.out.weight"].T
