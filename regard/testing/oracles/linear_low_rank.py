"""Oracles for weights that are rolled, routed through a few, or made from statistics."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def circulant(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """CAT: the weight of every pair, looked up around the circle, or along the line behind in causal order."""
    w: dict[str, Tensor] = layer.state_dict(keep_vars=True)
    N, C = tokens.shape[1:]
    D, outs = C // layer.heads, []
    for h in range(layer.heads):
        own = slice(h * D, (h + 1) * D)
        v = tokens @ w["v.weight"][own].T
        rows = []
        for i in range(N):
            last = i + 1 if causal else N
            z = torch.stack([_circle_score(w, tokens, h, own, t, t + 1 if causal else N) for t in range(last)], 1)
            powers = torch.exp(z - z.max(1, keepdim=True).values)
            steps = [i - j for j in range(last)] if causal else [(j - i) % N for j in range(N)]
            rows.append(sum(powers[:, s, None] * v[:, j] for j, s in enumerate(steps)) / powers.sum(1, keepdim=True))
        outs.append(torch.stack(rows, 1))
    return torch.cat(outs, -1) @ w["out.weight"].T


def _circle_score(w: dict[str, Tensor], x: Tensor, h: int, own: slice, t: int, known: int) -> Tensor:
    """The score [B] of token t, its keys averaged over the first `known` tokens."""
    if "score.weight" in w:
        return (x[:, t] * w["score.weight"][h]).sum(-1)
    mean = sum(x[:, j] @ w["k.weight"][own].T for j in range(known)) / known
    return (x[:, t] @ w["q.weight"][own].T * mean).sum(-1) / math.sqrt(own.stop - own.start)


def mean_of_all_values(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """A layer with maps v and out that weighs all it sees alike."""
    v = tokens @ layer.v.weight.T
    rows = [v[:, : i + 1 if causal else v.shape[1]].mean(1) for i in range(v.shape[1])]
    return torch.stack(rows, 1) @ layer.out.weight.T


def latent_routing(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """FLARE: each head's product of two matrices of softmaxes, the weights of every pair written out."""
    y = tokens if memory is None else memory
    w: dict[str, Tensor] = layer.state_dict(keep_vars=True)
    D, outs = layer.dim // layer.heads, []
    own_keys, keys, values = _deep(w, "k", tokens), _deep(w, "k", y), _deep(w, "v", y)
    for h in range(layer.heads):
        part = slice(h * D, (h + 1) * D)
        Q = _normed(w, "latent_norm", w["latents"][h])
        asks, gives = (_normed(w, "key_norm", x[..., part]) for x in (own_keys, keys))
        rows = []
        for i in range(tokens.shape[1]):
            last = i + 1 if causal else y.shape[1]
            out: Any = 0.0
            takes = torch.exp(layer.scale * asks[:, i] @ Q.T)
            for m in range(Q.shape[0]):
                gathers = torch.exp(layer.scale * gives[:, :last] @ Q[m])
                z = (gathers[..., None] * values[:, :last, part]).sum(1) / gathers.sum(1, keepdim=True)
                out = out + (takes[:, m] / takes.sum(1))[:, None] * z
            rows.append(out)
        outs.append(torch.stack(rows, 1))
    return torch.cat(outs, -1) @ w["out.weight"].T + w["out.bias"]


def _deep(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    if f"{name}.weight" in w:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]
    n = 0
    while f"{name}.layers.{n}.weight" in w:
        u = x @ w[f"{name}.layers.{n}.weight"].T + w[f"{name}.layers.{n}.bias"]
        x = x + 0.5 * u * (1 + torch.tanh(math.sqrt(2 / math.pi) * (u + 0.044715 * u**3)))
        n += 1
    return x + x @ w[f"{name}.last.weight"].T + w[f"{name}.last.bias"]


def _normed(w: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    if f"{name}.bias" not in w:
        return x
    off = x - x.mean(-1, keepdim=True)
    return off / torch.sqrt((off * off).mean(-1, keepdim=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]


@torch.no_grad()
def one_gaussian(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """GAAM: the one bell that a product of bells is, with their precisions added, a feature at a time."""
    outs = []
    for c in range(layer.dim):
        h = c * layer.heads // layer.dim
        precision = sum(float(torch.exp(-2 * r)) for r in layer.log_width[h])
        centre = sum(
            float(d) * float(torch.exp(-2 * r)) for d, r in zip(layer.shift[h], layer.log_width[h], strict=True)
        )
        x = tokens[..., c]
        mean = x.mean(1, keepdim=True)
        variance = x.var(1, keepdim=True) + 1e-8
        bell = torch.exp(-((x - mean - centre / precision) ** 2) * precision / (2 * variance))
        outs.append(x * bell / bell.sum(1, keepdim=True))
    return torch.stack(outs, -1)


def agent_mixing(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Agent attention in one dimension: agents, their weights and the tokens' of them, and neighbours, by loops."""
    mixer, C = layer.mixer, layer.dim
    w: dict[str, Tensor] = layer.state_dict(keep_vars=True)
    N, D, n = tokens.shape[1], C // layer.heads, mixer.agents
    outs = []
    for h in range(layer.heads):
        own = slice(h * D, (h + 1) * D)
        q, k, v = (tokens @ w[f"projection.{name}.weight"][own].T for name in "qkv")
        read = []
        for a in range(n):
            agent = w["mixer.learned"][h, a][None] if mixer.source == "learned" else _segment(q, a, n)
            scores = (agent[:, None] * k).sum(-1) / math.sqrt(D)
            scores = scores + torch.stack([_stretched(w, "first", h, a, j, N) for j in range(N)])
            read.append((agent, (torch.softmax(scores, 1)[..., None] * v).sum(1)))
        rows = []
        for i in range(N):
            scores = torch.stack([(q[:, i] * agent).sum(-1) / math.sqrt(D) for agent, _ in read], 1)
            scores = scores + torch.stack([_stretched(w, "second", h, a, i, N) for a in range(n)])
            share = torch.softmax(scores, 1)
            out = sum(share[:, a, None] * value for a, (_, value) in enumerate(read))
            if mixer.kernel:
                taps = w["mixer.near.weight"][own].reshape(D, -1)
                for r in range(mixer.kernel):
                    j = i + r - mixer.kernel // 2
                    out = out + (taps[:, r] * v[:, j] if 0 <= j < N else 0.0)
                out = out + w["mixer.near.bias"][own]
            rows.append(out)
        outs.append(torch.stack(rows, 1))
    return torch.cat(outs, -1) @ w["merge.out.weight"].T


def _segment(q: Tensor, a: int, n: int) -> Tensor:
    """The mean of segment a of n of the queries [B, N, D]."""
    N = q.shape[1]
    return q[:, a * N // n : -(-(a + 1) * N // n)].mean(1)


def _stretched(w: dict[str, Tensor], name: str, h: int, a: int, j: int, N: int) -> Tensor:
    """Entry j of N of a table of 7, along straight lines between its entries."""
    if f"mixer.{name}" not in w:
        return torch.zeros((), dtype=torch.float64)
    table = w[f"mixer.{name}"][h, a]
    at = min(max((j + 0.5) * 7 / N - 0.5, 0.0), 6.0)
    low = min(int(at), 5)
    return table[low] * (low + 1 - at) + table[low + 1] * (at - low)
