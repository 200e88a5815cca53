"""The oracle for tokens that pass a layer more than once."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def think_at_hard(layer: nn.Module, tokens: Tensor, memory: Tensor | None, causal: bool) -> Tensor:
    """Iteration by iteration, a token and a head at a time: each key that a token may see is looked up on its own."""
    return torch.stack([_row(layer, row) for row in tokens])


def _row(layer: nn.Module, row: Tensor) -> Tensor:
    threshold, iterations = float(layer.threshold), int(layer.iterations)  # type: ignore[arg-type]
    out = torch.zeros_like(row)
    going = [True] * len(row)
    keys: list[list[tuple[int, Tensor, Tensor]]] = []
    for iteration in range(iterations):
        if iteration:
            going = [go and _likely(layer, row[p], out[p]) > threshold for p, go in enumerate(going)]
        x = row + out
        x = x * torch.sqrt(((row**2).mean(-1) + 1e-6) / ((x**2).mean(-1) + 1e-6))[:, None]
        held = [
            (p, _map(layer, "k", x[p], iteration), _map(layer, "v", x[p], iteration))
            for p in range(len(row))
            if going[p]
        ]
        keys.append(held)
        before = [one for some in keys for one in some]
        made = []
        for p in range(len(row)):
            if not going[p]:
                made.append(torch.zeros_like(row[p]))
                continue
            q = _map(layer, "q", x[p], iteration)
            made.append(_map(layer, "o", _read(layer, q, [(k, v) for at, k, v in before if at <= p]), iteration))
        out = out + torch.stack(made)
    return out


def _read(layer: nn.Module, q: Tensor, seen: list[tuple[Tensor, Tensor]]) -> Tensor:
    wide = len(q) // int(layer.heads)  # type: ignore[arg-type]
    heads = []
    for at in range(0, len(q), wide):
        part = slice(at, at + wide)
        scores = torch.stack([(q[part] * k[part]).sum() / math.sqrt(wide) for k, _ in seen])
        powers = torch.exp(scores - scores.max())
        heads.append(sum(p * v[part] for p, (_, v) in zip(powers, seen, strict=True)) / powers.sum())
    return torch.cat(heads)  # type: ignore[arg-type]


def _map(layer: nn.Module, name: str, x: Tensor, iteration: int) -> Tensor:
    weight = layer.get_parameter(("out" if name == "o" else name) + ".weight")
    if iteration:
        down, up = (layer.get_parameter(f"deeper.{name}.{one}.weight") for one in ("down", "up"))
        weight = weight + float(layer.alpha) / int(layer.rank) * up @ down  # type: ignore[arg-type]
    return weight @ x


def _likely(layer: nn.Module, token: Tensor, out: Tensor) -> float:
    """The decider's probability, layer by layer."""

    def linear(name: str, x: Tensor) -> Tensor:
        return layer.get_parameter(f"decider.{name}.weight") @ x + layer.get_parameter(f"decider.{name}.bias")

    def normed(name: str, x: Tensor) -> Tensor:
        centred = x - x.mean()
        scaled = centred / torch.sqrt((centred**2).mean() + 1e-5)
        return scaled * layer.get_parameter(f"decider.{name}.weight") + layer.get_parameter(f"decider.{name}.bias")

    x = linear("into", torch.cat([token, out]))
    hidden = linear("blocks.0.1", normed("blocks.0.0", x))
    x = x + linear("blocks.0.4", hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))))
    return float((1 / (1 + torch.exp(-linear("last", normed("norm", x))))).detach())
