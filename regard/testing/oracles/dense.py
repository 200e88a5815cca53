"""Oracles for what scores every pair."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def softmax(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Multi-head attention from the layer's four linear maps, a head and a query at a time."""
    heads = _heads(layer, tokens, tokens if memory is None else memory)
    outs = []
    for q, k, v in heads:
        rows = []
        for n in range(q.shape[1]):
            last = n + 1 if causal else k.shape[1]
            scores = (q[:, n, None] * k[:, :last]).sum(-1) / math.sqrt(q.shape[-1])
            powers = torch.exp(scores - scores.max(-1, keepdim=True).values)
            rows.append((powers[..., None] * v[:, :last]).sum(1) / powers.sum(-1, keepdim=True))
        outs.append(torch.stack(rows, 1))
    return _linear(_map(layer, "out"), torch.cat(outs, -1))


def _heads(layer: nn.Module, tokens: Tensor, memory: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Each query head's q [B, N, D], k and v [B, M, D]."""
    q, k, v = (_linear(_map(layer, name), x) for name, x in (("q", tokens), ("k", memory), ("v", memory)))
    width = layer.dim // layer.heads  # type: ignore[operator]
    count, groups = q.shape[-1] // width, k.shape[-1] // width
    found = []
    for head in range(count):
        group = head * groups // count
        own, shared = slice(head * width, (head + 1) * width), slice(group * width, (group + 1) * width)
        found.append((q[..., own], k[..., shared], v[..., shared]))
    return found


def _map(layer: nn.Module, name: str) -> nn.Linear:
    """The linear map called `name`, of the layer itself or of one of its slots."""
    for path, module in layer.named_modules():
        if path.rpartition(".")[2] == name and isinstance(module, nn.Linear):
            return module
    raise AttributeError(f"{type(layer).__name__} has no linear map called {name!r}.")


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    out = torch.einsum("...c,dc->...d", x, layer.weight)
    return out if layer.bias is None else out + layer.bias
