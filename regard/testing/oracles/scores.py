"""Oracles for what turns scores into weights in another way than softmax."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from regard.testing.oracles.dense import _heads, _linear, _map


def softmax_off_by_one(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """exp(s) / (1 + sum exp(s)), a query and a key at a time."""

    def weights(scores: Tensor) -> Tensor:
        top = scores.max(-1, keepdim=True).values.clamp(min=0)
        powers = torch.exp(scores - top)
        return powers / (torch.exp(-top) + powers.sum(-1, keepdim=True))

    return _weighed(layer, tokens, memory, causal, weights)


def sigmoid(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """1 / (1 + n exp(-s)), n the number of scores in a row."""
    return _weighed(layer, tokens, memory, causal, lambda scores: 1 / (1 + scores.shape[-1] * torch.exp(-scores)))


def cog_attention(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """The softmax of the scores' sizes with the scores' signs."""

    def weights(scores: Tensor) -> Tensor:
        powers = torch.exp(scores.abs() - scores.abs().max(-1, keepdim=True).values)
        signs = (scores > 0).to(scores.dtype) - (scores < 0).to(scores.dtype)
        return signs * powers / powers.sum(-1, keepdim=True)

    return _weighed(layer, tokens, memory, causal, weights)


def castle(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Each step renews the keys of all tokens before it, and then attends; six maps and no rotation."""
    names = ("q", "k", "v", "lookahead_q", "lookahead_k", "lookahead_v")
    width = _map(layer, "q").out_features // layer.heads  # type: ignore[operator]
    outs = []
    for head in range(layer.heads):  # type: ignore[call-overload]
        own = slice(head * width, (head + 1) * width)
        q, k, v, asks, answers, brings = (_linear(_map(layer, name), tokens)[..., own] for name in names)
        renewed = [torch.zeros_like(q[:, 0]) for _ in range(tokens.shape[1])]
        rows = []
        for t in range(tokens.shape[1]):
            for s in range(t):
                gate = torch.sigmoid((asks[:, s] * answers[:, t]).sum(-1, keepdim=True) / math.sqrt(width))
                renewed[s] = renewed[s] + gate * brings[:, t]
            scores = []
            for s in range(t + 1):
                ahead = (q[:, t] * renewed[s]).sum(-1) / math.sqrt(width)
                scores.append((q[:, t] * k[:, s]).sum(-1) / math.sqrt(width) - ahead / (1 + torch.exp(-ahead)))
            powers = torch.exp(torch.stack(scores, -1) - torch.stack(scores, -1).max(-1, keepdim=True).values)
            rows.append(((powers / powers.sum(-1, keepdim=True))[..., None] * v[:, : t + 1]).sum(1))
        outs.append(torch.stack(rows, 1))
    return _linear(_map(layer, "out"), torch.cat(outs, -1))


def _weighed(
    layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool, weights: Callable[[Tensor], Tensor]
) -> Tensor:
    outs = []
    for q, k, v in _heads(layer, tokens, tokens if memory is None else memory):
        rows = []
        for n in range(q.shape[1]):
            last = n + 1 if causal else k.shape[1]
            scores = (q[:, n, None] * k[:, :last]).sum(-1) / math.sqrt(q.shape[-1])
            rows.append((weights(scores)[..., None] * v[:, :last]).sum(1))
        outs.append(torch.stack(rows, 1))
    return _linear(_map(layer, "out"), torch.cat(outs, -1))
