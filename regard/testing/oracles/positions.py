"""Oracles for what tells queries and keys where they are: a head, a query and a key at a time."""

from __future__ import annotations

import cmath
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from regard.testing.oracles.dense import _heads, _linear, _map, softmax

# The score of query i [B, N, D] for key j [B, M, D] in one head, [B]: given head, i, j, q, k.
_Score = Callable[[int, int, int, Tensor, Tensor], Tensor]


def learned(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Attention over tokens to which each position's own vector was added."""
    table = layer.get_parameter("position.table")

    def add(x: Tensor) -> Tensor:
        return torch.stack([x[:, n] + table[n] for n in range(x.shape[1])], 1)

    return softmax(layer, add(tokens), None if memory is None else add(memory), causal)


def sinusoidal(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Attention over tokens to which sines and cosines were added, one number at a time."""

    def add(x: Tensor) -> Tensor:
        x = x.clone()
        for n in range(x.shape[1]):
            for c in range(x.shape[2]):
                angle = n / 10000.0 ** ((c - c % 2) / x.shape[2])
                x[:, n, c] += math.cos(angle) if c % 2 else math.sin(angle)
        return x

    return softmax(layer, add(tokens), None if memory is None else add(memory), causal)


def rope(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Pairs across the two halves as complex numbers, times exp(i angle)."""
    return _attend(layer, tokens, memory, causal, _turned)


def rope_interleaved(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Neighbouring pairs as complex numbers, times exp(i angle)."""

    def score(head: int, i: int, j: int, q: Tensor, k: Tensor) -> Tensor:
        q, k = (torch.cat([x[..., 0::2], x[..., 1::2]], -1) for x in (q, k))
        return _turned(head, i, j, q, k)

    return _attend(layer, tokens, memory, causal, score)


def p_rope(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """RoPE in the fastest three quarters of the pairs, plain products in the rest."""

    def score(head: int, i: int, j: int, q: Tensor, k: Tensor) -> Tensor:
        return _turned(head, i, j, q, k, math.floor(0.75 * (q.shape[-1] // 2)))

    return _attend(layer, tokens, memory, causal, score)


def alibi(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Scaled products less slope times distance; the slopes of 2^n heads."""
    heads: int = layer.heads  # type: ignore[assignment]

    def score(head: int, i: int, j: int, q: Tensor, k: Tensor) -> Tensor:
        return _product(q[:, i], k[:, j]) - 2.0 ** (-8.0 * (head + 1) / heads) * abs(i - j)

    return _attend(layer, tokens, memory, causal, score)


def t5(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Scaled products and the table's entry for the bucket, 32 buckets up to distance 128."""
    table = layer.get_parameter("position.table")

    def score(head: int, i: int, j: int, q: Tensor, k: Tensor) -> Tensor:
        distance, buckets = abs(i - j), 32 if causal else 16
        near = buckets // 2
        bucket = distance
        if distance >= near:
            far = math.log(distance / near) / math.log(128 / near) * (buckets - near)
            bucket = min(near + int(far), buckets - 1)
        return _product(q[:, i], k[:, j]) + table[bucket + (16 if j > i else 0), head]

    return _attend(layer, tokens, memory, causal, score)


def tapa(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """The product of the first halves times the cosine of the product of the second, at |i - j| to the 0.1."""

    def score(head: int, i: int, j: int, q: Tensor, k: Tensor) -> Tensor:
        half = q.shape[-1] // 2
        content = _product(q[:, i, :half], k[:, j, :half])
        phase = _product(q[:, i, half:], k[:, j, half:])
        return content * torch.cos(2 * math.pi * abs(i - j) ** 0.1 * phase)

    return _attend(layer, tokens, memory, causal, score)


def fope(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Each pair's cosine and sine as sums over the frequencies with a whole turn in 512 tokens."""
    state = layer.state_dict()
    tables = state["position.cos"], state["position.sin"]

    def angle(head: int, n: int, pair: int, width: int) -> tuple[float, float]:
        cos = sin = 0.0
        kept = [10000.0 ** (-2 * m / width) for m in range(width // 2)]
        kept = [w for w in kept if w * 512 >= 2 * math.pi]
        if pair >= len(kept):
            return 1.0, 0.0
        for m, w in enumerate(kept):
            cos += math.cos(w * n) * float(tables[0][head, m, pair])
            sin += math.sin(w * n) * float(tables[1][head, m, pair])
        return cos, sin

    def score(head: int, i: int, j: int, q: Tensor, k: Tensor) -> Tensor:
        half, total = q.shape[-1] // 2, q.new_zeros(q.shape[0])
        for m in range(half):
            pairs = []
            for x, n in ((q, i), (k, j)):
                cos, sin = angle(head, n, m, 2 * half)
                a, b = x[:, n, m], x[:, n, m + half]
                pairs.append((a * cos - b * sin, a * sin + b * cos))
            total = total + pairs[0][0] * pairs[1][0] + pairs[0][1] * pairs[1][1]
        return total / math.sqrt(2 * half)

    return _attend(layer, tokens, memory, causal, score)


def cope(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Gates summed key by key, and embeddings read between two whole positions."""
    table = layer.get_parameter("position.table")

    def score(head: int, i: int, j: int, q: Tensor, k: Tensor) -> Tensor:
        width, last = q.shape[-1], table.shape[1] - 1
        total = q.new_zeros(q.shape[0])
        for u in range(j, i + 1):
            total = total + torch.sigmoid(_product(q[:, i], k[:, u]))
        extra = []
        for row, place in enumerate(total.clamp(max=last).tolist()):
            low = math.floor(place)
            value = table[:, low] * (1 - place + low) + table[:, min(low + 1, last)] * (place - low)
            extra.append((q[row, i] * value).sum() / math.sqrt(width))
        return _product(q[:, i], k[:, j]) + torch.stack(extra)

    return _attend(layer, tokens, memory, causal, score)


def harmonic(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Half rotary score and half harmonic number over the head's number, doubled."""

    def score(head: int, i: int, j: int, q: Tensor, k: Tensor) -> Tensor:
        fall = sum(1.0 / t for t in range(1, abs(i - j) + 1)) / (head + 1)
        return 2 * (0.5 * _turned(head, i, j, q, k) - 0.5 * fall)

    return _attend(layer, tokens, memory, causal, score)


def rcmha(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Convolved maps, or maps of convolved tokens, and the four terms of Transformer-XL's score, each by itself."""
    state, width = layer.state_dict(), layer.dim // layer.heads  # type: ignore[operator]
    taps = state.get("taps")
    inputs = tokens
    if taps is not None and taps.shape[0] == tokens.shape[-1]:  # one convolution, of the inputs
        inputs, taps = _filtered(tokens, taps), None
    maps = [_linear(_map(layer, name), inputs) for name in "qkv"]
    if taps is not None:
        maps = [_filtered(x, part) for x, part in zip(maps, taps.chunk(3), strict=True)]

    def score(head: int, i: int, j: int, q: Tensor, k: Tensor) -> Tensor:
        dim = tokens.shape[-1]
        steps = [(i - j) / 10000.0 ** (2 * m / dim) for m in range(dim // 2)]
        wave = torch.tensor([math.sin(s) for s in steps] + [math.cos(s) for s in steps], dtype=q.dtype)
        r = (state["r.weight"] @ wave)[head * width : (head + 1) * width]
        u, w = state["content"][head, 0], state["place"][head, 0]
        terms = (q[:, i] * k[:, j]).sum(-1) + (q[:, i] * r).sum(-1) + (u * k[:, j]).sum(-1) + (w * r).sum()
        return terms / math.sqrt(width)

    heads = [tuple(x[..., h * width : (h + 1) * width] for x in maps) for h in range(layer.heads)]  # type: ignore[arg-type]
    return _mixed(layer, heads, causal, score)  # type: ignore[arg-type]


def _attend(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool, score: _Score) -> Tensor:
    """Attention from the layer's four linear maps with the scores that `score` gives."""
    return _mixed(layer, _heads(layer, tokens, tokens if memory is None else memory), causal, score)


def _mixed(layer: nn.Module, heads: list[tuple[Tensor, Tensor, Tensor]], causal: bool, score: _Score) -> Tensor:
    outs = []
    for head, (q, k, v) in enumerate(heads):
        rows = []
        for i in range(q.shape[1]):
            last = i + 1 if causal else k.shape[1]
            scores = torch.stack([score(head, i, j, q, k) for j in range(last)], -1)
            powers = torch.exp(scores - scores.max(-1, keepdim=True).values)
            rows.append((powers[..., None] * v[:, :last]).sum(1) / powers.sum(-1, keepdim=True))
        outs.append(torch.stack(rows, 1))
    return _linear(_map(layer, "out"), torch.cat(outs, -1))


def _turned(head: int, i: int, j: int, q: Tensor, k: Tensor, turning: int | None = None) -> Tensor:
    """The scaled product of query i and key j, whose first `turning` pairs are turned."""
    half = q.shape[-1] // 2
    a, b = (torch.complex(x[..., :half], x[..., half:]) for x in (q[:, i], k[:, j]))
    angles = [0.0 if turning is not None and m >= turning else 10000.0 ** (-m / half) for m in range(half)]
    a, b = (x * torch.tensor([cmath.exp(1j * n * w) for w in angles], dtype=x.dtype) for x, n in ((a, i), (b, j)))
    return (a * b.conj()).real.sum(-1) / math.sqrt(2 * half)


def _filtered(x: Tensor, taps: Tensor) -> Tensor:
    """Each channel's sum of taps times the tokens up to this one."""
    rows = []
    for n in range(x.shape[1]):
        total = torch.zeros_like(x[:, 0])
        for back in range(min(n + 1, taps.shape[1])):
            total = total + x[:, n - back] * taps[:, taps.shape[1] - 1 - back]
        rows.append(total)
    return torch.stack(rows, 1)


def _product(q: Tensor, k: Tensor) -> Tensor:
    return (q * k).sum(-1) / math.sqrt(q.shape[-1])
