"""Oracles for weights that are a softmax over time, a latent or a channel at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def latte(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Latte by its two probabilities, a head, a token and a latent at a time."""
    memory = tokens if memory is None else memory
    q, k, v = _linear(layer, "q", tokens), _linear(layer, "k", memory), _linear(layer, "v", memory)
    heads: int = layer.heads  # type: ignore[assignment]
    latents, width = q.shape[-1] // heads, v.shape[-1] // heads
    found = torch.zeros_like(tokens)
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        for t in range(tokens.shape[1]):
            last = t + 1 if causal else memory.shape[1]
            powers = torch.exp(q[:, t, head * latents : (head + 1) * latents])
            for latent in range(latents):
                weights = torch.exp(k[:, :last, head * latents + latent])
                mean = (weights[..., None] * v[:, :last, own]).sum(1) / weights.sum(1, keepdim=True)
                found[:, t, own] += (powers[:, latent] / powers.sum(-1))[:, None] * mean
    return _linear(layer, "out", found)


def mean_of_values(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """The mean of the values, over the tokens so far where it is causal."""
    v = _linear(layer, "v", tokens if memory is None else memory)
    if causal:
        rows = [v[:, : t + 1].mean(1) for t in range(tokens.shape[1])]
    else:
        rows = [v.mean(1)] * tokens.shape[1]
    return _linear(layer, "out", torch.stack(rows, 1))


def lightnet(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """LightNet from its softmax over time for each channel of a key."""
    return _lightnet(layer, tokens, causal, "none")


def lightnet_rotary(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """LightNet whose queries and softmaxed keys turn as complex numbers, each by its own place."""
    return _lightnet(layer, tokens, causal, "rotary")


def lightnet_half(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """LightNet in which the first half of a head's features turns."""
    return _lightnet(layer, tokens, causal, "half")


def lightnet_cosine(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """LightNet in which each product of features goes with a cosine of the distance."""
    return _lightnet(layer, tokens, causal, "cosine")


def _lightnet(layer: nn.Module, tokens: Tensor, causal: bool, turn: str) -> Tensor:
    q, k, v = (_linear(layer, name, tokens) for name in "qkv")
    q = q / (1 + torch.exp(-q))
    heads: int = layer.heads  # type: ignore[assignment]
    keys, width = q.shape[-1] // heads, v.shape[-1] // heads
    found = torch.zeros_like(tokens)
    for head in range(heads):
        mine, own = slice(head * keys, (head + 1) * keys), slice(head * width, (head + 1) * width)
        for t in range(tokens.shape[1]):
            last = t + 1 if causal else tokens.shape[1]
            powers = torch.exp(k[:, :last, mine])
            shares = powers / powers.sum(1, keepdim=True)
            for j in range(last):
                weight = _product(q[:, t, mine], shares[:, j], t, j, turn)
                found[:, t, own] += weight[:, None] * v[:, j, own]
    normed = found / torch.sqrt(found.square().mean(-1, keepdim=True) + 1e-6) * layer.get_parameter("gain")
    gate = _linear(layer, "gate_out", _linear(layer, "gate_in", tokens))
    return _linear(layer, "out", normed / (1 + torch.exp(-gate)))


def _product(q: Tensor, k: Tensor, t: int, j: int, turn: str) -> Tensor:
    D = q.shape[-1]
    if turn == "none":
        return (q * k).sum(-1)
    if turn == "cosine":
        theta = 10000.0 ** (-torch.arange(D, dtype=q.dtype) / D)
        return (q * k * torch.cos(theta * (t - j))).sum(-1)
    turning = D if turn == "rotary" else D // 2
    theta = 10000.0 ** (-torch.arange(turning // 2, dtype=q.dtype) * 2 / turning)
    half = turning // 2
    a, b = (torch.complex(x[:, :half], x[:, half:turning]) for x in (q, k))
    turned = [x * torch.polar(torch.ones_like(theta), theta * place) for x, place in ((a, t), (b, j))]
    return (turned[0] * turned[1].conj()).real.sum(-1) + (q[:, turning:] * k[:, turning:]).sum(-1)


def _linear(layer: nn.Module, name: str, x: Tensor) -> Tensor:
    return torch.einsum("...c,dc->...d", x, layer.get_parameter(f"{name}.weight"))
