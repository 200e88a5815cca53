"""Oracles for what mixes along the layers; `tokens` [B, S, C] are one token's sources."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def latest_source(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Only the latest source is read."""
    return tokens.clone()


def mean_of_sources(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """The plain mean of the sources so far."""
    return torch.stack([tokens[:, : s + 1].sum(1) / (s + 1) for s in range(tokens.shape[1])], 1)


def sum_of_sources(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """The plain residual: the sum of the sources so far."""
    return torch.stack([tokens[:, : s + 1].sum(1) for s in range(tokens.shape[1])], 1)


def own_state_through_values(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Each place reads its own value, whatever the scores."""
    value, out = _weight(layer, "v.weight"), _weight(layer, "out.weight")
    return torch.einsum("dc,ec,bse->bsd", out, value.T, tokens)


def window_over_depth(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """The latest state, and attention over the last three, a head and a state at a time."""
    q, k, v = (tokens @ _weight(layer, f"{name}.weight").T for name in "qkv")
    out, width, heads = _weight(layer, "out.weight"), int(layer.dim), int(layer.heads)  # type: ignore[arg-type]
    reads = []
    for s in range(tokens.shape[1]):
        made = []
        for at in range(0, width, width // heads):
            part = slice(at, at + width // heads)
            near = range(max(0, s - 2), s + 1)
            scores = [(q[:, s, part] * k[:, j, part]).sum(-1) / math.sqrt(width // heads) for j in near]
            made.append(_mean([v[:, j, part] for j in near], scores))
        reads.append(tokens[:, s] + torch.cat(made, -1) @ out.T)
    return torch.stack(reads, 1)


def attention_residuals(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Attention residuals from their queries and key scales, a reader at a time, over blocks summed one by one."""
    query, gain = _weight(layer, "query"), _weight(layer, "gain")
    size = int(_depth(layer).block_size or 1)  # type: ignore[arg-type]
    reads, done, partial = [], [tokens[:, 0]], torch.zeros_like(tokens[:, 0])
    for s in range(tokens.shape[1]):
        if s:
            partial = partial + tokens[:, s]
            if s % size == 0:
                done, partial = [*done, partial], torch.zeros_like(partial)
        sources = [*done, partial] if s % size else done
        logits = []
        for source in sources:
            key = gain[s] * source / torch.sqrt((source**2).mean(-1, keepdim=True) + 1e-6)
            logits.append((query[s] * key).sum(-1))
        reads.append(_mean(sources, logits))
    return torch.stack(reads, 1)


def deep_delta(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Deep delta learning, a sequence and a column of the state at a time, with 1 - beta k k^T written out."""
    depth = _depth(layer)
    S, C, V = tokens.shape[1], tokens.shape[2], int(depth.channels)  # type: ignore[arg-type]
    rows = []
    for row in tokens:
        state, reads = torch.stack([row[0]] * V, -1), []
        for s in range(S):
            if s:
                x = _summed(layer, state, s - 1)
                k = row[s] / row[s].norm()
                normed = x / torch.sqrt((x**2).mean() + 1e-6)
                beta = 2 / (
                    1 + torch.exp(-(normed @ _weight(layer, "write")[s - 1] + _weight(layer, "write_bias")[s - 1]))
                )
                erase = torch.eye(C, dtype=row.dtype) - beta * torch.outer(k, k)
                columns = []
                for c in range(V):
                    value = torch.tensor(2.0, dtype=row.dtype)
                    if depth.value != "constant":
                        value = x @ _weight(layer, "new")[s - 1, c] + _weight(layer, "new_bias")[s - 1, c]
                    if depth.value == "sigmoid":
                        value = 4 / (1 + torch.exp(-value))
                    columns.append(erase @ state[:, c] + beta * value * k)
                state = torch.stack(columns, -1)
            reads.append(_summed(layer, state, s))
        rows.append(torch.stack(reads))
    return torch.stack(rows)


def _mean(values: list[Tensor], logits: list[Tensor]) -> Tensor:
    """The mean of values [B, C] weighted by the powers of logits [B]."""
    highest = torch.stack(logits).max(0).values
    powers = [torch.exp(logit - highest) for logit in logits]
    total, read = torch.zeros_like(highest), torch.zeros_like(values[0])
    for power, value in zip(powers, values, strict=True):
        total, read = total + power, read + power[:, None] * value
    return read / total[:, None]


def _summed(layer: nn.Module, state: Tensor, at: int) -> Tensor:
    if state.shape[-1] == 1:
        return state[:, 0]
    weights = _weight(layer, "sum")[at]
    return sum(weights[c] * state[:, c] for c in range(len(weights)))  # type: ignore[return-value]


def _depth(layer: nn.Module) -> nn.Module:
    """The mechanism itself, which a layer along its sources holds as `depth`."""
    return layer.get_submodule("depth") if hasattr(layer, "depth") else layer


def _weight(layer: nn.Module, name: str) -> Tensor:
    """The parameter of this name, of the layer itself or of the mechanism it holds."""
    return _depth(layer).get_parameter(name)
