"""Oracles for layers whose heads are of several kinds."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": lambda x: x.clamp(min=0),
    "tanh": torch.tanh,
}


def dual_attention(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Sensory and relational heads from their maps, a head, a query and a key at a time, in the naive order."""
    y = tokens if memory is None else memory
    w: dict[str, Tensor] = layer.state_dict(keep_vars=True)
    D, share, outs = layer.head_dim, layer.group, []
    turn = _turned if layer.rope else lambda x: x
    if "out.weight" in w:
        heads = []
        for h in range(w["q.weight"].shape[0] // D):
            q = turn(tokens @ _rows(w["q.weight"], h, D).T)
            k, v = (y @ _rows(w[f"{n}.weight"], h // share, D).T for n in ("k", "v"))
            rows = [(a @ v[:, : a.shape[2]]) for a in _weights(q, turn(k), causal)]
            heads.append(torch.cat(rows, 1))
        outs.append(torch.cat(heads, -1) @ w["out.weight"].T)
    count, _, relations = w["w_rel"].shape
    E, heads = count * D // relations, []
    k_rel = w.get("k_rel.weight", w["q_rel.weight"])
    act = _ACTIVATIONS[layer.activation]
    for h in range(count):
        q = turn(tokens @ _rows(w["q_attn.weight"], h, D).T)
        k = turn(y @ _rows(w["k_attn.weight"], h // share, D).T)
        rows = []
        for i, a in enumerate(_weights(q, k, causal)):
            total: Any = 0.0
            for j in range(a.shape[2]):
                products = []
                for r in range(relations):
                    mine, theirs = tokens[:, i] @ _rows(w["q_rel.weight"], r, E).T, y[:, j] @ _rows(k_rel, r, E).T
                    products.append(act((mine * theirs).sum(-1) / math.sqrt(E)))
                related = torch.stack(products, -1)
                symbol = _symbol(layer, w, y, i, j, causal) @ _rows(w["w_symbol.weight"], h, D).T
                total = total + a[:, 0, j, None] * (related @ w["w_rel"][h].T + symbol)
            rows.append(total)
        heads.append(torch.stack(rows, 1))
    return torch.cat([*outs, torch.cat(heads, -1) @ w["out_rel.weight"].T], -1)


def _turned(x: Tensor) -> Tensor:
    """Pairs of features as complex numbers, turned by their positions."""
    half = x.shape[-1] // 2
    pairs = torch.complex(x[..., :half], x[..., half:])
    angles = [[t / 10000 ** (m / half) for m in range(half)] for t in range(x.shape[1])]
    out = pairs * torch.exp(1j * torch.tensor(angles, dtype=torch.float64))
    return torch.cat([out.real, out.imag], -1)


def _symbol(layer: Any, w: dict[str, Tensor], y: Tensor, i: int, j: int, causal: bool) -> Tensor:
    """The symbol [B, dim] of key j for query i."""
    if "symbols.table.weight" in w:
        table = w["symbols.table.weight"]
        if table.shape[0] % 2:
            reach = table.shape[0] // 2
            return table[min(max(j - i, -reach), reach) + reach][None]
        return table[j][None]
    heads, found, where, x = layer.symbols.heads, [], "symbols", y[:, j]
    if "symbols.key.weight" in w:
        where, x = "symbols.lookup", _among(layer, w, y, j, causal)
    q = x @ w[f"{where}.query.weight"].T + w[f"{where}.query.bias"]
    for part in range(heads):
        own = slice(part * q.shape[-1] // heads, (part + 1) * q.shape[-1] // heads)
        scores = q[:, own] @ w[f"{where}.templates"][:, own].T / math.sqrt(q.shape[-1] / heads)
        found.append(torch.softmax(scores, -1) @ w[f"{where}.library"][:, own])
    return torch.cat(found, -1)


def _among(layer: Any, w: dict[str, Tensor], y: Tensor, j: int, causal: bool) -> Tensor:
    """How token j relates to its neighbours, [B, dim]: head by head and neighbour by neighbour, none being zero."""
    heads, offsets = layer.symbols.heads, layer.symbols.offsets
    q, k = y[:, j] @ w["symbols.query.weight"].T + w["symbols.query.bias"], y @ w["symbols.key.weight"].T
    d, parts = y.shape[-1] // heads, []
    near = [o for o in offsets if 0 <= j + o < y.shape[1] and not (causal and o > 0)]
    table = {}
    for h in range(heads):
        own = slice(h * d, (h + 1) * d)
        exps = {o: torch.exp((q[:, own] * k[:, j + o, own]).sum(-1) / math.sqrt(d)) for o in near}
        table[h] = {o: exps[o] / sum(exps.values()) for o in near}
    for h in range(heads):
        parts += [table[h].get(o, torch.zeros(len(y), dtype=y.dtype)) for o in offsets]
    return torch.stack(parts, -1) @ w["symbols.relation.weight"].T + w["symbols.relation.bias"]


def _rows(weight: Tensor, part: int, size: int) -> Tensor:
    return weight[part * size : (part + 1) * size]


def _weights(q: Tensor, k: Tensor, causal: bool) -> list[Tensor]:
    """For each query its weights [B, 1, keys that it sees]."""
    found = []
    for i in range(q.shape[1]):
        seen = k[:, : i + 1] if causal else k
        found.append(torch.softmax(q[:, i : i + 1] @ seen.transpose(1, 2) / math.sqrt(q.shape[-1]), -1))
    return found


def l_query(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Queries from the normalised mean of the latest tokens, one at a time; then plain heads."""
    y, part = tokens if memory is None else memory, layer.projection
    latest = [tokens[:, max(0, t - part.window + 1) : t + 1].mean(1) for t in range(tokens.shape[1])]
    normed = []
    for mean in latest:
        off = mean - mean.mean(-1, keepdim=True)
        scaled = off / (off.pow(2).mean(-1, keepdim=True) + 1e-8).sqrt()
        normed.append(scaled * part.norm.weight + part.norm.bias)
    x, D, heads = torch.stack(normed, 1), layer.dim // layer.heads, []
    for h in range(layer.heads):
        q, k, v = (_part(m, h, D, z) for m, z in ((part.q, x), (part.k, y), (part.v, y)))
        heads.append(torch.cat([a @ v[:, : a.shape[2]] for a in _weights(q, k, causal)], 1))
    return torch.cat(heads, -1) @ layer.merge.out.weight.T


def _part(linear: nn.Linear, part: int, size: int, x: Tensor) -> Tensor:
    """One head's output of a linear map."""
    out = x @ _rows(linear.weight, part, size).T
    return out if linear.bias is None else out + _rows(linear.bias, part, size)


def span_dynamic_convolution(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """ConvBERT's two branches, a token, a head and a tap at a time."""
    return _mixed(layer, tokens, causal, _kernel)


def box_filter(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """The same with kernels that weigh all taps alike."""
    K = layer.kernel
    return _mixed(layer, tokens, causal, lambda layer, x, t, h, reach: x.new_full((x.shape[0], K), 1 / K))


def _mixed(layer: Any, x: Tensor, causal: bool, kernel: Callable[..., Tensor]) -> Tensor:
    """Attention heads, and convolution heads with the kernels given."""
    N, D, K = x.shape[1], layer.dim // layer.heads, layer.kernel
    reach = [r - (K - 1 if causal else K // 2) for r in range(K)]
    attended, convolved = [], []
    for h in range(layer.q.weight.shape[0] // D):
        q, k, v, u = (_part(m, h, D, x) for m in (layer.q, layer.k, layer.v, layer.value))
        attended.append(torch.cat([a @ v[:, : a.shape[2]] for a in _weights(q, k, causal)], 1))
        rows = []
        for t in range(N):
            w = kernel(layer, x, t, h, reach)
            rows.append(sum(w[:, r, None] * u[:, t + d] for r, d in enumerate(reach) if 0 <= t + d < N))
        convolved.append(torch.stack(rows, 1))
    out = torch.cat(attended, -1) @ layer.out.weight.T + torch.cat(convolved, -1) @ layer.out_local.weight.T
    return out if layer.out.bias is None else out + layer.out.bias


def _kernel(layer: Any, x: Tensor, t: int, h: int, reach: list[int]) -> Tensor:
    """The kernel [B, K] of token t and head h."""
    q = _part(layer.q, 0, layer.q.weight.shape[0], x[:, t])
    if layer.span:
        taps = [layer.depthwise[:, 0, r] * x[:, t + d] for r, d in enumerate(reach) if 0 <= t + d < x.shape[1]]
        q = q * (sum(taps) @ layer.pointwise.T + layer.span_bias)
    return torch.softmax(_part(layer.taps, h, len(reach), q), -1)


def multi_window(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Heads that look at their own block, a query at a time."""
    p, mixer, D = layer.projection, layer.mixer, layer.dim // layer.heads
    heads, start = [], 0
    for h, w in enumerate(mixer.windows):
        q, k, v = (_part(m, h, D, tokens) for m in (p.q, p.k, p.v))
        table = mixer.table[start : start + 2 * w - 1] if w else None
        start += 2 * w - 1 if w else 0
        rows, cuts = [], _cuts(tokens.shape[1], w, mixer.cls, mixer.shift)
        for i in range(tokens.shape[1]):
            seen = [j for j in range(i + 1 if causal else tokens.shape[1]) if i in cuts[j] or j in cuts[i]]
            scores = []
            for j in seen:
                score = (q[:, i] * k[:, j]).sum(-1) / math.sqrt(D)
                if table is not None and min(i, j) >= mixer.cls:
                    score = score + table[i - j + w - 1]
                scores.append(score)
            rows.append((torch.softmax(torch.stack(scores, -1), -1)[..., None] * v[:, seen]).sum(1))
        heads.append(torch.stack(rows, 1))
    return torch.cat(heads, -1) @ layer.merge.out.weight.T


def _cuts(N: int, w: int, beside: int, shift: bool) -> list[range]:
    """For each position the positions of its block; those beside the blocks, and all where there are none, have all."""
    cuts = [range(N)] * min(beside, N)
    while w and len(cuts) < N:
        short = shift and w > 1 and len(cuts) == beside
        size = min(w // 2 if short else w, N - len(cuts))
        cuts += [range(len(cuts), len(cuts) + size)] * size
    return cuts + [range(N)] * (N - len(cuts))


def grouped_attention(layer: Any, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Groups of tokens as one, a token, a head and a group at a time; causal queries leave out what is later."""
    B, N, C, g, H = *tokens.shape, layer.group, layer.heads
    T, d = -(-N // g), g * C // H
    whole = []
    for name in ("q", "k", "v"):
        made = _part(getattr(layer, name), 0, C, tokens)
        whole.append(torch.cat([made, made.new_zeros(B, T * g - N, C)], 1))
    u, w = (layer.of_content, layer.of_position) if layer.relative else (0.0, 0.0)
    q, k, v, q_place = (x.reshape(B, T, g * C) for x in (whole[0] + u, whole[1], whole[2], whole[0] + w))
    far = {apart: _distance(layer, apart, causal) for apart in range(1 - T, T)} if layer.relative else {}
    rows = []
    for n in range(N):
        t, place = divmod(n, g)
        known = [float(not causal or f < (place + 1) * C) for f in range(g * C)]
        mask, heads = torch.tensor(known, dtype=torch.float64), []
        for h in range(H):
            own, scores = slice(h * d, (h + 1) * d), []
            for s in range(t + 1 if causal else T):
                score = (q[:, t, own] * mask[own] * k[:, s, own]).sum(-1)
                if layer.relative:
                    score = score + (q_place[:, t, own] * mask[own] * far[t - s][own]).sum(-1)
                scores.append(score / math.sqrt(d))
            weights = torch.softmax(torch.stack(scores, -1), -1)
            heads.append((weights[..., None] * v[:, : len(scores), own]).sum(1))
        rows.append(torch.cat(heads, -1)[:, place * C : (place + 1) * C])
    return _part(layer.out, 0, C, torch.stack(rows, 1))


def _distance(layer: Any, apart: int, causal: bool) -> Tensor:
    """The mapped sinusoids [group * dim] of the tokens at a distance between groups."""
    g, C, rows = layer.group, layer.dim, []
    for n in range(g):
        place = apart * g + (g - 1 if causal else g // 2) - n
        if g % 2 == 0 and not causal:  # zero twice: what is ahead of the query is a step nearer
            place = place - 1 if place > 0 else place
        angles = [place / 10000 ** (2 * c / C) for c in range(C // 2)]
        row = torch.tensor([f(a) for a in angles for f in (math.sin, math.cos)], dtype=torch.float64)
        rows.append(_part(layer.position, 0, C, row))
    return torch.cat(rows)
