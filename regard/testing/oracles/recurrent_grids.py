"""Oracles for what turns or fades along the axes of a grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def turned_on_a_grid(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Softmax attention whose heads turn half of their features by the row and half by the column, four columns."""
    other = tokens if memory is None else memory
    q, k, v = (_linear(layer, name, x) for name, x in (("q", tokens), ("k", other), ("v", other)))
    heads = int(layer.heads)  # type: ignore[arg-type]
    D = q.shape[-1] // heads
    found = torch.zeros_like(q)
    for head in range(heads):
        own = slice(head * D, (head + 1) * D)
        for i in range(tokens.shape[1]):
            last = i + 1 if causal else other.shape[1]
            scores = [
                (_spun(q[:, i, own], i) * _spun(k[:, j, own], j).conj()).real.sum(-1) / math.sqrt(D)
                for j in range(last)
            ]
            powers = torch.exp(torch.stack(scores, 1))
            found[:, i, own] = (powers[..., None] * v[:, :last, own]).sum(1) / powers.sum(1, keepdim=True)
    return _linear(layer, "out", found)


def toeplitz(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Each head's features summed with weights q . k sigmoid(rate)^distance, normed and mapped."""
    q, k, rate = (layer.get_parameter(name)[0] for name in ("q", "k", "rate"))
    found = torch.zeros_like(tokens)
    width = q.shape[1]
    for head in range(q.shape[0]):
        own = slice(head * width, (head + 1) * width)
        amount, stays = (q[head] * k[head]).sum(), 1 / (1 + torch.exp(-rate[head]))
        for i in range(tokens.shape[1]):
            for j in range(i + 1 if causal else tokens.shape[1]):
                found[:, i, own] += amount * stays ** abs(i - j) * tokens[:, j, own]
    spread = found.square().mean(-1, keepdim=True).add(1e-6).sqrt()
    return _linear(layer, "out", found / spread * layer.get_parameter("gain"))


def _spun(x: Tensor, place: int) -> Tensor:
    """Both shares of a head's features as complex numbers, times exp(i angle)."""
    parts = []
    for share, coordinate in zip(x.chunk(2, -1), (place // 4, place % 4), strict=True):
        half = share.shape[-1] // 2
        theta = 10000.0 ** (-torch.arange(half, dtype=x.dtype) / half)
        parts.append(
            torch.complex(share[..., :half], share[..., half:]) * torch.polar(theta * 0 + 1, theta * coordinate)
        )
    return torch.cat(parts, -1)


def _linear(layer: nn.Module, name: str, x: Tensor) -> Tensor:
    for path, part in layer.named_modules():
        if path.rpartition(".")[2] == name and isinstance(part, nn.Linear):
            out = torch.einsum("...c,dc->...d", x, part.weight)
            return out if part.bias is None else out + part.bias
    raise AttributeError(f"{type(layer).__name__} has no linear map called {name!r}.")
