"""Whole models run with attention written out in float64 under any rule of who sees whom; it shares no code with regard.

A rule is asked for every layer of a forward pass: it gets the layer's `Call` and gives the pairs that the method looks
at, [B, H, N, N]; what the model itself allows (the past, its own sliding window, real tokens) is applied beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from tests.oracle import Array, array, attention, softmax

NAME = "written_out"


@dataclass(frozen=True)
class Call:
    """One layer's call: q [B, H, N, D], k [B, G, N, D] after rotation, positions [B, N] (-1: padding), what the model
    allows [B, H, N, N]."""

    layer: int
    q: Array
    k: Array
    place: Array
    allowed: Array
    scale: float
    window: int | None  # the model's own sliding window

    @property
    def keys(self) -> Array:
        """Keys for each query head, [B, H, N, D]."""
        return self.k.repeat(self.q.shape[1] // self.k.shape[1], axis=1)


Rule = Callable[[Call], Array]


@dataclass
class Ran:
    """Logits [B, N, V], and for each layer the pairs that were looked at and those that the model allows."""

    logits: Tensor
    seen: list[Array] = field(default_factory=list)
    allowed: list[Array] = field(default_factory=list)

    @property
    def density(self) -> float:
        return sum(int(s.sum()) for s in self.seen) / sum(int(a.sum()) for a in self.allowed)


def distances(place: Array) -> tuple[Array, Array]:
    """Query positions [B, 1, N, 1] and key positions [B, 1, 1, N]."""
    return place[:, None, :, None], place[:, None, None, :]


def run(model: nn.Module, inputs: dict[str, Tensor], rule: Rule) -> Ran:
    """One forward pass without a cache."""
    real = inputs["attention_mask"].numpy().astype(bool)
    place = np.where(real, real.cumsum(-1) - 1, -1)
    found = Ran(torch.empty(0))

    def attend(
        module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: object, *, scaling: float | None = None,
        sliding_window: int | None = None, softcap: float | None = None, s_aux: Tensor | None = None, **others: object,
    ) -> tuple[Tensor, None]:  # fmt: skip
        scale = q.shape[-1] ** -0.5 if scaling is None else scaling
        i, j = distances(place)
        allowed = (i >= 0) & (j >= 0) & (j <= i) & ((i - j < sliding_window) if sliding_window else True)
        allowed = np.broadcast_to(allowed, (*q.shape[:3], k.shape[2]))
        call = Call(module.layer_idx, array(q), array(k), place, allowed, scale, sliding_window)
        seen = allowed & rule(call)
        edits = [] if softcap is None else [lambda s: softcap * np.tanh(s / softcap)]
        normal = None if s_aux is None else softmax(array(s_aux).tolist())
        out = attention(q, k, v, seen, scale=scale, edits=edits, normal=normal).out
        found.seen.append(seen)
        found.allowed.append(allowed)
        return torch.from_numpy(out).to(q.dtype).transpose(1, 2).contiguous(), None

    with using(model, attend), torch.no_grad():
        found.logits = model(**inputs, position_ids=torch.from_numpy(place.clip(0)), use_cache=False).logits
    return found


@contextmanager
def using(model: nn.Module, attend: Callable[..., tuple[Tensor, None]]) -> Iterator[None]:
    """The model with this attention function."""
    before = model.config._attn_implementation
    AttentionInterface.register(NAME, attend)
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)
