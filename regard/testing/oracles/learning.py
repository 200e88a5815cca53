"""Oracles for what learns while it reads: one token after another, gradients by autograd."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


def titans(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Titans in each of its modes, with its normalisations, for whatever settings the layer has."""
    with torch.enable_grad():
        return torch.stack([_row(layer, row) for row in tokens])


def _row(layer: Any, x: Tensor) -> Tensor:
    # Weights begin anew: each segment's gradients are taken at those with which it began.
    net = _Network(layer)
    persistent = [] if layer.tokens is None else list(layer.tokens.detach())
    if layer.mode != "context":
        for token in persistent:
            net.learn(token)
    if layer.mode == "context":
        return torch.stack(_segments(layer, net, x, persistent))
    recalled = [net.learn(token) for token in x]
    if layer.mode == "memory":
        return torch.stack(recalled) @ layer.out.weight.T
    read = list(x) if layer.mode == "gate" else recalled
    outs = []
    for t in range(len(x)):
        first = max(0, t - layer.window + 1)
        places = list(range(first, t + 1))
        out = _look(layer, read[t], t, [(read[j], j) for j in places] + [(p, None) for p in persistent])
        if layer.mode == "gate":
            out = _norm(layer.attended, out) / (1 + torch.exp(-_norm(layer.recalled, recalled[t])))
        outs.append(layer.out.weight @ out)
    return torch.stack(outs)


def _segments(layer: Any, net: _Network, x: Tensor, persistent: list[Tensor]) -> list[Tensor]:
    outs, view = [], []
    for t, token in enumerate(x):
        if t % layer.chunk == 0:
            view, start = [], [W.detach().clone() for W in net.weights]
        recalled = net.read(net.heads(token, 0), start)
        view += [(token, t), (recalled, t)]
        y = _look(layer, token, t, view + [(p, None) for p in persistent])
        outs.append(layer.out.weight @ (_norm(layer.attended, y) * _norm(layer.recalled, net.learn(y))))
    return outs


def _look(layer: Any, asking: Tensor, place: int, seen: Sequence[tuple[Tensor, int | None]]) -> Tensor:
    """Attention of one token over tokens with a place, turned, and others without."""
    D = layer.dim // layer.heads
    q, k, v = (layer.q.weight @ asking, [layer.k.weight @ s for s, _ in seen], [layer.v.weight @ s for s, _ in seen])
    outs = []
    for h in range(layer.heads):
        own = slice(h * D, (h + 1) * D)
        scores = []
        for key, (_, at) in zip(k, seen, strict=True):
            a, b = q[own], key[own]
            # A token without a place is met by a query that is turned.
            a = _turn(a, place, layer.base)
            b = b if at is None else _turn(b, at, layer.base)
            scores.append((a * b).sum() / math.sqrt(D))
        weights = torch.stack(scores).softmax(0)
        outs.append(sum(w * value[own] for w, value in zip(weights, v, strict=True)))
    return torch.cat(outs)  # type: ignore[arg-type]


def _turn(x: Tensor, place: int, base: float) -> Tensor:
    half = len(x) // 2
    out = x.clone()
    for m in range(half):
        angle = place * base ** (-m / half)
        out[m] = x[m] * math.cos(angle) - x[m + half] * math.sin(angle)
        out[m + half] = x[m + half] * math.cos(angle) + x[m] * math.sin(angle)
    return out


def _norm(norm: nn.RMSNorm, x: Tensor) -> Tensor:
    eps = torch.finfo(x.dtype).eps if norm.eps is None else norm.eps
    return norm.weight * x / torch.sqrt((x * x).mean() + eps)


class _Network:
    """The network of one sequence: it learns one token at a time."""

    def __init__(self, layer: Any) -> None:
        self.layer, self.past = layer, []
        self.weights = [W.detach().clone() for W in layer.first]
        self.push = [torch.zeros_like(W) for W in self.weights]
        self.frozen, self.count = self.weights, 0

    def heads(self, token: Tensor, which: int) -> Tensor:
        """The memory's query, key or value of a token [M, D], by its place among the three."""
        made: Any = self.layer.recall.weight @ _norm(self.layer.entering, token)
        if self.layer.mix is not None:
            rows = [*self.past, made][-self.layer.conv :]
            made = sum(row * self.layer.mix[:, self.layer.conv - len(rows) + n] for n, row in enumerate(rows))
        part = made.chunk(3)[which]
        part = (part / (1 + torch.exp(-part))).unflatten(0, (self.layer.memory_heads, -1))
        return part if which == 2 else part / part.norm(dim=-1, keepdim=True)

    def read(self, x: Tensor, weights: list[Tensor]) -> Tensor:
        for n, W in enumerate(weights):
            x = x if n == 0 else x / (1 + torch.exp(-x))
            x = torch.einsum("md,mde->me", x, W)
        return x.flatten()

    def learn(self, token: Tensor) -> Tensor:
        layer = self.layer
        q, k, v = (self.heads(token, which) for which in range(3))
        if layer.mix is not None:
            self.past.append(layer.recall.weight @ _norm(layer.entering, token))
        if self.count % layer.chunk == 0:
            self.frozen = self.weights
        self.count += 1
        was = self.read(q, self.weights)
        at = [W.detach().requires_grad_() for W in self.frozen]
        missed = ((self.read(k, at) - v.flatten()) ** 2).sum()
        slopes = torch.autograd.grad(missed, at)
        step, momentum, forget = torch.sigmoid(
            layer.writing.weight @ _norm(layer.entering, token) + layer.writing.bias
        ).chunk(3)
        step, momentum, forget = (s[:, None, None] for s in (layer.rate * step, momentum, forget))
        momentum = momentum if layer.momentum else torch.zeros_like(momentum)
        forget = forget if layer.forget else torch.zeros_like(forget)
        self.push = [momentum * S - step * g for S, g in zip(self.push, slopes, strict=True)]
        self.weights = [(1 - forget) * W + S for W, S in zip(self.weights, self.push, strict=True)]
        return was if layer.before else self.read(q, self.weights)


def conditioning(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """An associative memory, a sequence, a head and a token at a time."""
    mixer, out = layer.mixer, layer.merge.out
    rows = []
    for x in tokens:
        q, k, v = (x @ getattr(layer.projection, name).weight.T for name in ("q", "k", "v"))
        D, heads = layer.dim // layer.heads, []
        for h in range(layer.heads):
            own = slice(h * D, (h + 1) * D)
            heads.append(_conditioned(mixer, q[:, own], k[:, own], v[:, own]))
        rows.append(torch.cat(heads, -1) @ out.weight.T)
    return torch.stack(rows)


def _conditioned(mixer: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    S, usual, outs = torch.zeros(v.shape[1], k.shape[1], dtype=k.dtype), 0.0, []
    for ask, key, value in zip(q, k, v, strict=True):
        key = key / key.norm()
        y = S @ key
        if mixer.rule == "hebb":
            S = S + mixer.rate * torch.outer(value, key)
        elif mixer.rule == "decay":
            S = mixer.stays * S + mixer.rate * torch.outer(value, key)
        elif mixer.rule == "delta":
            S = S + mixer.rate * torch.outer(value - y, key)
        elif mixer.rule == "oja":
            value = value / value.norm()
            S = S + mixer.rate * (torch.outer(value, key) - torch.outer(y, S.T @ y))
        else:
            value = value / value.norm()
            S = S + mixer.rate * ((y + value).norm() - usual) * torch.outer(value, key)
            usual = usual + mixer.mean * ((y + value) @ (y + value) - usual)
        outs.append(S @ (ask / ask.norm()))
    return torch.stack(outs)


def sha_rnn(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """SHA-RNN, a sequence and a token at a time."""
    return torch.stack([_carried(layer, x) for x in tokens])


def _carried(layer: Any, x: Tensor) -> Tensor:
    C = layer.dim
    h, c = torch.zeros(C, dtype=x.dtype), torch.zeros(C, dtype=x.dtype)
    seen: list[Tensor] = []
    outs = []
    for token in x:
        into = layer.lstm.weight_ih_l0 @ _layer_norm(layer.norm_start, token) + layer.lstm.bias_ih_l0
        i, f, g, o = (into + layer.lstm.weight_hh_l0 @ h + layer.lstm.bias_hh_l0).chunk(4)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        y = h
        if layer.attention:
            seen = [*seen, _layer_norm(layer.norm_memory, h)][-layer.memory :]
            asking = _layer_norm(layer.norm_query, h)
            q = torch.sigmoid(layer.scale_q) * _layer_norm(layer.norm_q, layer.q.weight @ asking)
            scores = torch.stack([(q * torch.sigmoid(layer.scale_k) * m).sum() for m in seen]) / math.sqrt(C)
            a, b = (layer.over.weight @ torch.sigmoid(layer.scale_v) + layer.over.bias).chunk(2)
            y = asking + torch.sigmoid(b) * torch.tanh(a) * (scores.softmax(0) @ torch.stack(seen))
        z = layer.wide.weight @ _layer_norm(layer.norm_boom, y) + layer.wide.bias
        z = z / (1 + torch.exp(-1.702 * z))
        outs.append(_layer_norm(layer.norm_out, y) + sum(z[n * C : (n + 1) * C] for n in range(layer.boom)))
    return torch.stack(outs)


def _layer_norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return norm.weight * (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + norm.eps) + norm.bias
