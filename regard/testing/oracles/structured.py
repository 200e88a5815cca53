"""Oracles for layers that score otherwise than by products, a row of the batch, a head and a query at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from regard.testing.oracles.dense import _linear, _map

_Row = Callable[[Tensor, Tensor, Tensor, int], Tensor]  # q [D], k [M, D], v [M, E], head -> [E]


def running_mean(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Every query reads the plain mean of the values that it sees."""
    return _by_query(layer, tokens, memory, causal, lambda q, k, v, head: v.mean(0))


def second_order(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Weights 1 + s + s^2 / 2 in the place of exp(s)."""

    def row(q: Tensor, k: Tensor, v: Tensor, head: int) -> Tensor:
        s = [float(q @ one) / math.sqrt(len(q)) for one in k]
        return _mean([1 + x + x * x / 2 for x in s], v)

    return _by_query(layer, tokens, memory, causal, row)


@torch.no_grad()
def own_scores(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """A key's score is made with the query of its own token: s_j = sum_d SiLU(q_j)_d k_jd / sqrt(D)."""
    outs = torch.zeros_like(tokens)
    q, k, v = (_linear(_map(layer, name), tokens) for name in ("q", "k", "v"))
    D = tokens.shape[-1] // int(layer.heads)  # type: ignore[arg-type]
    for b, n, at in itertools.product(*map(range, tokens.shape[:2]), range(0, tokens.shape[-1], D)):
        part = slice(at, at + D)
        s = [float((_silu(q[b, j, part]) * k[b, j, part]).sum()) / math.sqrt(D) for j in range(n + 1)]
        outs[b, n, part] = _mean([math.exp(x - max(s)) for x in s], v[b, : n + 1, part])
    return _linear(_map(layer, "out"), outs)


def fixed_sequence(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Queries and keys from the layer's own fixed stream, values from the tokens."""
    stream = layer.get_buffer("stream")[: tokens.shape[1]][None].expand(tokens.shape)
    return _by_query(layer, stream, stream, causal, _softmax_row, values=tokens)


@torch.no_grad()
def adaptive_filter(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Adaptive filter attention at its defaults, in complex numbers: keys and values carried to the query's time."""
    raw = dict(layer.named_parameters())
    heads, steps = int(layer.heads), int(layer.steps)  # type: ignore[arg-type]
    D = tokens.shape[-1] // heads
    d = D // 2
    parts = {name: _linear(_map(layer, name), tokens) for name in ("q", "k", "v")}
    outs = torch.zeros_like(tokens)
    for b, n, h in itertools.product(*map(range, tokens.shape[:2]), range(heads)):
        re, im = slice(h * D, h * D + d), slice(h * D + d, (h + 1) * D)
        q, k, v = (torch.complex(x[b, :, re], x[b, :, im]) for x in parts.values())
        alpha = (1 - _sigmoid(raw["decay"][h])) * 5 / steps + 1e-5
        turn = raw["frequency"][h] * (10 * 2 * math.pi / (2 * steps))
        omega = torch.cat([turn, -turn, torch.zeros(d % 2, dtype=torch.float64)])
        sigma2, eta2, gamma2 = (_above(raw["noise"][0, i, h], at) for i, at in enumerate((0.1, 0.5, 0.5)))
        nu, tau2 = _above(raw["freedom"][h], 2 * math.sqrt(2 * d) / d), raw["sharpness"][h] ** 2
        logits, carried = [], []
        for j in range(n + 1 if causal else len(k)):
            gap = abs(n - j)
            carry = torch.exp(-alpha * gap) * torch.exp(1j * omega * (n - j))
            off = (q[n] - carry * k[j]).abs().square().sum()
            V = sigma2 * (1 - torch.exp(-2 * alpha * gap)) / (2 * alpha) + eta2 * torch.exp(-2 * alpha * gap) + gamma2
            logits.append(tau2 * (-torch.log(V) - torch.log(1 + off / (nu * d * V))))
            carried.append(carry * v[j])
        found = torch.stack(logits)
        weights = torch.exp(found - found.max())
        estimate = (weights[:, None] * torch.stack(carried)).sum(0) / weights.sum()
        g = _sigmoid(raw["gain"][h])
        z = g * estimate + (1 - g) * v[n]
        outs[b, n, re], outs[b, n, im] = z.real, z.imag
    return _linear(_map(layer, "out"), outs)


def edges_apart(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Every edge is there or not by itself: sigmoid(s_j) v_j, summed."""

    def row(q: Tensor, k: Tensor, v: Tensor, head: int) -> Tensor:
        return torch.stack([1 / (1 + math.exp(-x)) * one for x, one in zip(_scores(q, k), v, strict=True)]).sum(0)

    return _by_query(layer, tokens, memory, causal, row)


def edge_or_none(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """One edge or none: one more key of score 0 and value 0."""

    def row(q: Tensor, k: Tensor, v: Tensor, head: int) -> Tensor:
        powers = [math.exp(x) for x in _scores(q, k)]
        return torch.stack([p * one for p, one in zip(powers, v, strict=True)]).sum(0) / (1 + sum(powers))

    return _by_query(layer, tokens, memory, causal, row)


def pairs_of_edges(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Every set of two keys by name, weighted by exp of its scores' sum; fewer keys than two are all taken."""

    def row(q: Tensor, k: Tensor, v: Tensor, head: int) -> Tensor:
        s = _scores(q, k)
        sets = list(itertools.combinations(range(len(k)), min(2, len(k))))
        weights = [math.exp(sum(s[j] for j in one)) for one in sets]
        read = [v[list(one)].sum(0) for one in sets]
        return torch.stack([w * r for w, r in zip(weights, read, strict=True)]).sum(0) / sum(weights)

    return _by_query(layer, tokens, memory, causal, row)


@torch.no_grad()
def _by_query(
    layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool, row: _Row, values: Tensor | None = None
) -> Tensor:
    """Tokens to tokens where each head and query is served by `row` alone."""
    memory = tokens if memory is None else memory
    given = (tokens, memory, memory if values is None else values)
    q, k, v = (_linear(_map(layer, name), x) for name, x in zip(("q", "k", "v"), given, strict=True))
    D = q.shape[-1] // int(layer.heads)  # type: ignore[arg-type]
    outs = torch.zeros_like(q)
    for b, n, head in itertools.product(range(q.shape[0]), range(q.shape[1]), range(q.shape[-1] // D)):
        part, last = slice(head * D, (head + 1) * D), n + 1 if causal else k.shape[1]
        outs[b, n, part] = row(q[b, n, part], k[b, :last, part], v[b, :last, part], head)
    return _linear(_map(layer, "out"), outs)


def _softmax_row(q: Tensor, k: Tensor, v: Tensor, head: int) -> Tensor:
    s = _scores(q, k)
    return _mean([math.exp(x - max(s)) for x in s], v)


def _scores(q: Tensor, k: Tensor) -> list[float]:
    return [float((q * one).sum()) / math.sqrt(len(q)) for one in k]


def _mean(weights: list[float], v: Tensor) -> Tensor:
    return torch.stack([w * one for w, one in zip(weights, v, strict=True)]).sum(0) / sum(weights)


def _silu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-x))


def _sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def _above(raw: Tensor, start: float) -> Tensor:
    """What a raw parameter stands for: more than 1e-6, and `start` where it is 0."""
    return 1e-6 + (start - 1e-6) * torch.log(1 + torch.exp(raw)) / math.log(2)
