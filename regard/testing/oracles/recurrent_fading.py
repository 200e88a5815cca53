"""Oracles for sums of values that fade, a pair of tokens at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

Pair = Callable[[Tensor, Tensor, int, int, int], Tensor]  # q [B, D], k [B, D], head, i, j to [B]


def fading_attention(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Products of queries and keys as they are, less by the slope of 2^n heads for each token between."""
    return _read(layer, tokens, causal, _fading)


def running_products(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Products of queries and keys as they are."""
    return _read(layer, tokens, causal, lambda q, k, head, i, j: (q * k).sum(-1))


def own_product(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Each token's value times the product of its own query and key."""
    return _read(layer, tokens, causal, lambda q, k, head, i, j: (q * k).sum(-1) * (i == j))


def sum_of_products(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Products of queries and keys as they are, over one."""
    return _read(layer, tokens, causal, lambda q, k, head, i, j: (q * k).sum(-1))


def normalised_attention(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Products of elu + 1 of queries and keys, over the exponential of a map of the query's token."""
    return _normalised(layer, tokens, causal, torch.exp)


def normalised_attention_softplus(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Products of elu + 1 of queries and keys, over log(1 + exp) of a map of the query's token."""
    return _normalised(layer, tokens, causal, lambda x: torch.log1p(torch.exp(x)))


def normalised_attention_sigmoid(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Products of elu + 1 of queries and keys, over 1 / (1 + exp(-)) of a map of the query's token."""
    return _normalised(layer, tokens, causal, lambda x: 1 / (1 + torch.exp(-x)))


def transnormer(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """TransNormer's layer, with the slopes of 2^n heads."""
    return _transnormer(layer, tokens, _fading)


def transnormer_lasting(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """TransNormer's layer where nothing fades."""
    return _transnormer(layer, tokens, lambda q, k, head, i, j: (q * k).sum(-1))


def transnormer_turned(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """TransNormer's first layer: each product of features goes with the cosine of its angle times the distance."""
    theta = layer.get_parameter("theta")
    rates = [2.0 ** (-8.0 * (head + 1) / len(theta)) for head in range(len(theta))]

    def pair(q: Tensor, k: Tensor, head: int, i: int, j: int) -> Tensor:
        return (q * k * torch.cos(theta[head] * (i - j))).sum(-1) * math.exp(-rates[head] * (i - j))

    return _transnormer(layer, tokens, pair)


def transnormer_released(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """TransNormer's layer with swish values."""
    return _transnormer(layer, tokens, _fading, _swish)


def _transnormer(
    layer: nn.Module, tokens: Tensor, pair: Pair, values: Callable[[Tensor], Tensor] = lambda x: x
) -> Tensor:
    q, k = (_swish(_linear(_map(layer, name), tokens)) for name in "qk")
    read = _pairs(q, k, values(_linear(_map(layer, "v"), tokens)), layer.heads, True, pair)  # type: ignore[arg-type]
    gate = _linear(_map(layer, "gate_out"), _linear(_map(layer, "gate_in"), tokens))
    normed = read / torch.sqrt(read.square().mean(-1, keepdim=True) + 1e-6)
    return _linear(_map(layer, "out"), normed / (1 + torch.exp(-gate)))


def _normalised(layer: nn.Module, tokens: Tensor, causal: bool, positive: Callable[[Tensor], Tensor]) -> Tensor:
    eta = positive(_linear(_map(layer, "eta"), tokens))

    def pair(q: Tensor, k: Tensor, head: int, i: int, j: int) -> Tensor:
        q, k = (torch.where(x > 0, x + 1, torch.exp(x)) for x in (q, k))
        return (q * k).sum(-1) / eta[:, i, head]

    return _read(layer, tokens, causal, pair)


def _fading(q: Tensor, k: Tensor, head: int, i: int, j: int) -> Tensor:
    heads = 4  # what the suite makes
    return (q * k).sum(-1) * math.exp(-(2.0 ** (-8.0 * (head + 1) / heads)) * (i - j))


def _read(layer: nn.Module, tokens: Tensor, causal: bool, pair: Pair) -> Tensor:
    q, k, v = (_linear(_map(layer, name), tokens) for name in "qkv")
    return _linear(_map(layer, "out"), _pairs(q, k, v, layer.heads, causal, pair))  # type: ignore[arg-type]


def _pairs(q: Tensor, k: Tensor, v: Tensor, heads: int, causal: bool, pair: Pair) -> Tensor:
    found = torch.zeros_like(v)
    width = v.shape[-1] // heads
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        for i in range(v.shape[1]):
            for j in range(i + 1 if causal else v.shape[1]):
                weight = pair(q[:, i, own], k[:, j, own], head, i, j)
                found[:, i, own] += weight[:, None] * v[:, j, own]
    return found


def _swish(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _map(layer: nn.Module, name: str) -> nn.Linear:
    for path, module in layer.named_modules():
        if path.rpartition(".")[2] == name and isinstance(module, nn.Linear):
            return module
    raise AttributeError(f"{type(layer).__name__} has no linear map called {name!r}.")


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    out = torch.einsum("...c,dc->...d", x, layer.weight)
    return out if layer.bias is None else out + layer.bias
