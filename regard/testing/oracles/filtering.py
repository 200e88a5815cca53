"""The oracle of a filter whose every feature has its own decay and noise."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor, nn

from regard.testing.oracles.dense import _linear, _map


@torch.no_grad()
def adaptive_filter_by_feature(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Adaptive filter attention, anisotropic: each feature of a value is a mean in its own precisions."""
    raw = dict(layer.named_parameters())
    heads, steps = int(layer.heads), int(layer.steps)  # type: ignore[arg-type]
    D = tokens.shape[-1] // heads
    d = D // 2
    parts = [_linear(_map(layer, name), tokens) for name in ("q", "k", "v")]
    outs = torch.zeros_like(tokens)
    for b, n, h in itertools.product(*map(range, tokens.shape[:2]), range(heads)):
        at = [slice(h * D, h * D + d), slice(h * D + d, (h + 1) * D)]
        q, k, v = (torch.complex(x[b, :, at[0]], x[b, :, at[1]]) for x in parts)
        nu, tau2 = _positive(raw["freedom"][h], 2 * math.sqrt(2 * d) / d), float(raw["sharpness"][h]) ** 2
        weights, carried = [], []
        for j in range(n + 1 if causal else len(k)):
            gap, V, moved, off = abs(n - j), [], [], 0.0
            for f in range(d):
                alpha = 5 / steps / (1 + math.exp(float(raw["decay"][h, f]))) + 1e-5
                turn = float(raw["frequency"][h, f % (d // 2)]) * (1 if f < d // 2 else -1) * 10 * math.pi / steps
                carry = complex(math.cos(turn * (n - j)), math.sin(turn * (n - j))) * math.exp(-alpha * gap)
                kept = math.exp(-2 * alpha * gap)
                sigma2, eta2, gamma2 = (_positive(raw["noise"][0, i, h, f], s) for i, s in enumerate((0.1, 0.5, 0.5)))
                V.append(sigma2 * (1 - kept) / (2 * alpha) + eta2 * kept + gamma2)
                off += abs(complex(q[n, f]) - carry * complex(k[j, f])) ** 2 / V[f]
                moved.append(carry * complex(v[j, f]))
            weights.append([(x * (1 + off / (nu * d))) ** -tau2 for x in V])
            carried.append(moved)
        g = 1 / (1 + math.exp(-float(raw["gain"][h])))
        for f in range(d):
            total = sum(w[f] for w in weights)
            mean = sum(w[f] * z[f] for w, z in zip(weights, carried, strict=True)) / total
            z = g * mean + (1 - g) * complex(v[n, f])
            outs[b, n, h * D + f], outs[b, n, h * D + d + f] = z.real, z.imag
    return _linear(_map(layer, "out"), outs)


def _positive(raw: Tensor, start: float) -> float:
    """What a raw parameter stands for: more than 1e-6, and `start` where it is 0."""
    return 1e-6 + (start - 1e-6) * math.log(1 + math.exp(float(raw))) / math.log(2)
