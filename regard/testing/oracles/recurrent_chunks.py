"""Oracles for recurrences that start anew, and for convolutions beside a memory, a token at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def chunked_means(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """RAT, with the chunk length and the angles from its definition."""
    heads, L = int(layer.heads), int(layer.chunk)  # type: ignore[arg-type]
    C = tokens.shape[-1]
    D = C // heads
    q, k = (_tiled(_linear(layer, name, tokens), heads, D) for name in "qk")
    v, z, g = (_linear(layer, name, tokens) for name in ("v", "open", "gate"))
    z, g = 1 / (1 + torch.exp(-z)), 1 / (1 + torch.exp(-g))
    rows, means = [], []
    for t in range(tokens.shape[1]):
        last = (torch.zeros_like(k[:, 0]), torch.zeros_like(v[:, 0])) if t % L == 0 else means[-1]
        means.append(
            tuple(g[:, t] * old + (1 - g[:, t]) * new for old, new in zip(last, (k[:, t], v[:, t]), strict=True))
        )
        read = [(means[c * L + L - 1], c) for c in range(t // L)] + [(means[t], t // L)]
        outs = []
        for head in range(heads):
            own = slice(head * D, (head + 1) * D)
            query = _spun(q[:, t, own], t // L)
            powers = [
                torch.exp((query * _spun(key[:, own], c).conj()).real.sum(-1) / math.sqrt(D)) for (key, _), c in read
            ]
            whole = torch.stack(powers).sum(0)
            outs.append(
                sum((p / whole)[:, None] * value[:, own] for p, ((_, value), _) in zip(powers, read, strict=True))
            )
        rows.append(z[:, t] * torch.cat(outs, -1))
    return _linear(layer, "out", torch.stack(rows, 1))


def gated_recurrence(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """A gated running mean of the values from the first token on."""
    v, z, g = (_linear(layer, name, tokens) for name in ("v", "open", "gate"))
    z, g = 1 / (1 + torch.exp(-z)), 1 / (1 + torch.exp(-g))
    state, rows = torch.zeros_like(v[:, 0]), []
    for t in range(tokens.shape[1]):
        state = g[:, t] * state + (1 - g[:, t]) * v[:, t]
        rows.append(z[:, t] * state)
    return _linear(layer, "out", torch.stack(rows, 1))


def gated_softmax(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Causal softmax attention whose keys and values are weighed by gates, and whose output is gated too."""
    heads = int(layer.heads)  # type: ignore[arg-type]
    D = tokens.shape[-1] // heads
    q, k = (_tiled(_linear(layer, name, tokens), heads, D) for name in "qk")
    v, z, g = (_linear(layer, name, tokens) for name in ("v", "open", "gate"))
    lets = 1 / (1 + torch.exp(g))
    k, v = k * lets, v * lets
    found = torch.zeros_like(v)
    for head in range(heads):
        own = slice(head * D, (head + 1) * D)
        for t in range(tokens.shape[1]):
            powers = torch.exp((q[:, t, None, own] * k[:, : t + 1, own]).sum(-1) / math.sqrt(D))
            found[:, t, own] = (powers[..., None] * v[:, : t + 1, own]).sum(1) / powers.sum(-1, keepdim=True)
    return _linear(layer, "out", found / (1 + torch.exp(-z)))


def gated_memory(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """GAM: a convolution and a read from slots, each token and slot at a time, under two gates."""
    gate = _linear(layer, "gate", tokens)
    a, b = gate[..., : tokens.shape[-1]], gate[..., tokens.shape[-1] :]
    slots = layer.get_parameter("memory")[0]
    powers = torch.stack([torch.exp((tokens * slot).sum(-1)) for slot in slots])
    read = sum((p / powers.sum(0))[..., None] * slot for p, slot in zip(powers, slots, strict=True))
    return _taps(layer, tokens) / (1 + torch.exp(-a)) + read / (1 + torch.exp(-b))


def depthwise_convolution(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """A causal convolution, channel by channel."""
    return _taps(layer, tokens)


def _taps(layer: nn.Module, tokens: Tensor) -> Tensor:
    taps = layer.get_parameter("taps")
    found = torch.zeros_like(tokens) + layer.get_parameter("bias")
    for t in range(tokens.shape[1]):
        for back in range(min(taps.shape[1], t + 1)):
            found[:, t] += taps[:, taps.shape[1] - 1 - back] * tokens[:, t - back]
    return found


def _tiled(x: Tensor, heads: int, D: int) -> Tensor:
    groups = x.shape[-1] // D
    return torch.cat([x[..., (head % groups) * D : (head % groups + 1) * D] for head in range(heads)], -1)


def _spun(x: Tensor, place: int) -> Tensor:
    D = x.shape[-1]
    theta = 10000.0 ** (-torch.arange(D // 2, dtype=x.dtype) * 2 / D)
    return torch.complex(x[..., : D // 2], x[..., D // 2 :]) * torch.polar(torch.ones_like(theta), theta * place)


def _linear(layer: nn.Module, name: str, x: Tensor) -> Tensor:
    part = layer.get_submodule(name)
    assert isinstance(part, nn.Linear)
    out = torch.einsum("...c,dc->...d", x, part.weight)
    return out if part.bias is None else out + part.bias
