"""The recurrence unrolled: every pair of a query and a key on its own, in float64, from plain tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def unrolled(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    decay: Tensor | float | None = None,
    write: str = "add",
    beta: Tensor | None = None,
    normalise: str = "none",
    causal: bool = True,
    real: Tensor | None = None,
    documents: Tensor | None = None,
) -> Tensor:
    B, H, N, D = q.shape
    G, E = k.shape[1], v.shape[-1]
    out = torch.zeros(B, H, N, E, dtype=torch.float64)
    for b in range(B):
        for h in range(H):
            g = h // (H // G)
            keys, values = k[b, g].double(), v[b, g].double()
            here = range(N) if real is None else [t for t in range(N) if real[b, t]]
            fades = [_fade(decay, b, g, t, D) for t in range(N)]
            amounts = torch.ones(N, dtype=torch.float64) if beta is None else beta[b, g].double()
            for t in here:
                own = [j for j in here if documents is None or documents[b, j] == documents[b, t]]
                if write == "delta":
                    S = torch.zeros(D, E, dtype=torch.float64)
                    for j in own:
                        if j <= t:
                            S = fades[j].exp()[:, None] * S
                            S = S + amounts[j] * torch.outer(keys[j], values[j] - keys[j] @ S)
                    out[b, h, t] = q[b, h, t].double() @ S
                    continue
                seen = [j for j in own if j <= t or not causal]
                between = {j: [s for s in here if min(j, t) < s <= max(j, t)] for j in seen}
                logs = [sum((fades[s] for s in between[j]), torch.zeros(D, dtype=torch.float64)) for j in seen]
                out[b, h, t] = _read(
                    q[b, h, t].double(), keys[seen], values[seen], amounts[seen], torch.stack(logs), normalise
                )
    return out


def _fade(decay: Tensor | float | None, b: int, g: int, t: int, D: int) -> Tensor:
    if decay is None:
        return torch.zeros(D, dtype=torch.float64)
    found = torch.as_tensor(decay, dtype=torch.float64)
    if found.dim() == 1 or found.dim() == 2:
        found = found[g]
    elif found.dim() > 2:
        found = found[b % len(found), g, t]
    return found.expand(D)


def _read(q: Tensor, k: Tensor, v: Tensor, amounts: Tensor, logs: Tensor, normalise: str) -> Tensor:
    if normalise == "softmax":
        return q @ ((k + logs).softmax(0).T @ v)
    weights = amounts * ((k * logs.exp()) @ q)
    return weights @ v / weights.sum() if normalise == "sum" else weights @ v
