"""Oracles for heads that share projections, latents, transforms or tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from regard.testing.oracles.dense import _map


def one_head_copied(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """One head as wide as the layer's maps, given to the output map once for every head."""
    seen = tokens if memory is None else memory
    q, k, v = _apply(layer, "q", tokens), _apply(layer, "k", seen), _apply(layer, "v", seen)
    head = _attend(q, k, v, causal)
    return _apply(layer, "out", torch.cat([head] * layer.heads, -1))  # type: ignore[arg-type,operator]


def scaled_heads(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """One head's maps, each feature scaled by one plus the head's embeddings, which are folded where they fold.

    Both scales of a score are given to the query, and that of the values to the mean of them.
    """
    seen = tokens if memory is None else memory
    q, k, v = _apply(layer, "q", tokens), _apply(layer, "k", seen), _apply(layer, "v", seen)
    e_q, e_k, e_v = (_tensor(layer, f"scale_{which}") for which in "qkv")
    asked = [q * (1 + e_q[h]) * (1 + e_k[h]) for h in range(e_q.shape[0])]
    heads = [_attend(own, k, v, causal) * (1 + e_v[h]) for h, own in enumerate(asked)]
    return _apply(layer, "out", torch.cat(heads, -1))


def shifted_heads(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """One head's maps, shifted by the head's embeddings: the key's changes nothing, the value's is added at the end."""
    seen = tokens if memory is None else memory
    q, k, v = _apply(layer, "q", tokens), _apply(layer, "k", seen), _apply(layer, "v", seen)
    e_q, e_v = _tensor(layer, "shift_q"), _tensor(layer, "shift_v")
    heads = [_attend(q + e_q[h], k, v, causal) + e_v[h] for h in range(e_q.shape[0])]
    return _apply(layer, "out", torch.cat(heads, -1))


def sliced_values(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Queries and keys from their maps; head h has features h D to (h + 1) D of the tokens as values."""
    seen = tokens if memory is None else memory
    return _side_by_side(layer, _apply(layer, "q", tokens), _apply(layer, "k", seen), seen, causal)


def sliced_keys_and_values(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Queries from their map; head h has features h D to (h + 1) D of the tokens as keys and as values."""
    seen = tokens if memory is None else memory
    return _side_by_side(layer, _apply(layer, "q", tokens), seen, seen, causal)


def aligned_values(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """As sliced keys and values, the values being sums of the tokens with the weights of the layer's `alignment`."""
    seen = tokens if memory is None else memory
    weights, rows = _tensor(layer, "alignment"), []
    for n in range(seen.shape[1]):
        last = n + 1 if causal else seen.shape[1]
        rows.append(sum(weights[n, m] * seen[:, m] for m in range(last)))
    return _side_by_side(layer, _apply(layer, "q", tokens), seen, torch.stack(rows, 1), causal)  # type: ignore[arg-type]


def low_rank_values(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """As aligned values, the weights being those of the identity plus products of `rows` and `columns`."""
    seen = tokens if memory is None else memory
    u, w, rows = _tensor(layer, "rows"), _tensor(layer, "columns"), []
    for n in range(seen.shape[1]):
        last = n + 1 if causal else seen.shape[1]
        rows.append(seen[:, n] + sum((u[n] * w[m]).sum() * seen[:, m] for m in range(last)))
    return _side_by_side(layer, _apply(layer, "q", tokens), seen, torch.stack(rows, 1), causal)


def knocking_heads(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Multi-head attention whose heads' features pass the layer's maps `shared.q`, `.k` and `.v`, a head at a time."""
    seen = tokens if memory is None else memory
    width = layer.dim // layer.heads  # type: ignore[operator]
    parts = {}
    for which, x in (("q", tokens), ("k", seen), ("v", seen)):
        whole = _apply(layer, which, x)
        parts[which] = [_transformed(layer, which, part) for part in whole.split(width, -1)]
    groups = len(parts["k"])
    heads = []
    for h, q in enumerate(parts["q"]):
        g = h * groups // len(parts["q"])
        heads.append(_attend(q, parts["k"][g], parts["v"][g], causal))
    return _apply(layer, "out", torch.cat(heads, -1))


def best_routed_head(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """A mixture of heads in which every token reads the shared heads and the one that it likes best."""
    return _mixture(layer, tokens, memory, causal, 1)


def two_routed_heads(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """A mixture of heads in which every token reads the shared heads and the two that it likes best."""
    return _mixture(layer, tokens, memory, causal, 2)


def latent_attention(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Multi-head latent attention without positions, a head at a time, from the latents themselves.

    A head's key map is given to its query, which then meets the latent; its value map is given to the mean latent.
    """
    seen = tokens if memory is None else memory
    asks = tokens if not _has(layer, "q_down") else _normalised(layer, "q_norm", _apply(layer, "q_down", tokens))
    q, latent = _apply(layer, "q", asks), _normalised(layer, "kv_norm", _apply(layer, "kv_down", seen))
    shared = _apply(layer, "k_rope", seen) if _has(layer, "k_rope") else None
    count: int = layer.heads  # type: ignore[assignment]
    up_k, up_v = (_map(layer, name).weight.chunk(count) for name in ("k_up", "v_up"))
    heads = []
    for h, own in enumerate(q.chunk(count, -1)):
        content = up_k[h].shape[0]
        asked = torch.einsum("bnd,dr->bnr", own[..., :content], up_k[h])
        keys = latent
        if shared is not None:
            asked, keys = torch.cat([asked, own[..., content:]], -1), torch.cat([latent, shared], -1)
        mean = _attend(asked, keys, latent, causal, scale=1 / math.sqrt(own.shape[-1]))
        heads.append(torch.einsum("bnr,dr->bnd", mean, up_v[h]))
    return _apply(layer, "out", torch.cat(heads, -1))


def _mixture(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool, active: int) -> Tensor:
    seen = tokens if memory is None else memory
    width = layer.dim // layer.heads  # type: ignore[operator]
    q, k, v = (_apply(layer, name, x).split(width, -1) for name, x in (("q", tokens), ("k", seen), ("v", seen)))
    routed = _map(layer, "route").weight.shape[0]
    shared = len(q) - routed
    maps = {name: _map(layer, name).weight for name in ("route", "share", "weigh") if _has(layer, name)}
    rows = []
    for b in range(tokens.shape[0]):
        row = slice(b, b + 1)
        heads = [_attend(q[h][row], k[h][row], v[h][row], causal)[0] for h in range(len(q))]
        for n in range(tokens.shape[1]):
            x = tokens[b, n]
            p = _share(maps["route"], x)
            taken = sorted(range(routed), key=lambda e: -p[e])[:active]
            whole = sum(p[e] for e in taken)
            a = [2 * part for part in _share(maps["weigh"], x)] if shared else [0.0, 1.0]
            always = [shared * part for part in _share(maps["share"], x)] if shared > 1 else [1.0] * shared
            gates = [a[0] * part for part in always]
            gates += [a[1] * active * p[e] / whole if e in taken else 0.0 for e in range(routed)]
            rows.append(torch.cat([gate * head[n] for gate, head in zip(gates, heads, strict=True)]))
    return _apply(layer, "out", torch.stack(rows).unflatten(0, tokens.shape[:2]))


def _share(weight: Tensor, x: Tensor) -> list[float]:
    """Softmax of a linear map of one token, in plain numbers."""
    scores = [float((row * x).sum().detach()) for row in weight]
    powers = [math.exp(score - max(scores)) for score in scores]
    return [power / sum(powers) for power in powers]


def _transformed(layer: nn.Module, which: str, x: Tensor) -> Tensor:
    name = f"shared.{which}."
    found = {path.partition(name)[2]: p for path, p in layer.named_parameters() if name in path}
    if not found:
        return x
    if set(found) == {"weight"}:
        return torch.einsum("bnd,ed->bne", x, found["weight"])
    up, gate = (torch.einsum("bnd,ed->bne", x, found[f"{name}.weight"]) for name in ("up", "gate"))
    return torch.einsum("bnd,ed->bne", 2 * up / (1 + torch.exp(-gate)), found["down.weight"])


def _side_by_side(layer: nn.Module, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
    width = layer.dim // layer.heads  # type: ignore[operator]
    sliced = zip(q.split(width, -1), k.split(width, -1), v.split(width, -1), strict=True)
    heads = [_attend(own, keys, values, causal) for own, keys, values in sliced]
    return _apply(layer, "out", torch.cat(heads, -1))


def _attend(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None = None) -> Tensor:
    """One head [B, N, D], a query at a time."""
    scale = 1 / math.sqrt(q.shape[-1]) if scale is None else scale
    rows = []
    for n in range(q.shape[1]):
        last = n + 1 if causal else k.shape[1]
        scores = (q[:, n, None] * k[:, :last]).sum(-1) * scale
        powers = torch.exp(scores - scores.max(-1, keepdim=True).values)
        rows.append((powers[..., None] * v[:, :last]).sum(1) / powers.sum(-1, keepdim=True))
    return torch.stack(rows, 1)


def _normalised(layer: nn.Module, name: str, x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6) * _tensor(layer, f"{name}.weight")


def _has(layer: nn.Module, name: str) -> bool:
    return any(path.rpartition(".")[2] == name for path, _ in layer.named_modules())


def _tensor(layer: nn.Module, name: str) -> Tensor:
    for path, parameter in layer.named_parameters():
        if path == name or path.endswith(f".{name}"):
            return parameter
    raise AttributeError(f"{type(layer).__name__} has no parameter called {name!r}.")


def _apply(layer: nn.Module, name: str, x: Tensor) -> Tensor:
    linear = _map(layer, name)
    out = torch.einsum("...c,dc->...d", x, linear.weight)
    return out if linear.bias is None else out + linear.bias
