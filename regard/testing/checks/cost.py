"""Cost: how work and state grow with the number of tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regard.caches import Held
from regard.layers import Attention
from regard.mechanisms import Call, Layer
from regard.testing.checks.base import Check
from regard.testing.failed import Failed
from regard.testing.operations import operations
from regard.testing.subject import Subject

# Long enough for the slope to be seen, which near-linear parts show later, and short enough for quadratic ones.
_LENGTHS = {True: (4096, 8192), False: (1024, 2048)}


_TOLERANCE = 0.3  # blocks are coarse: half a causal square grows somewhat slower than its side squared


def time(subject: Subject) -> None:
    """Counted floating-point operations grow with the number of tokens as claimed."""
    lengths = _LENGTHS[subject.spec.cost.time < 1.5]
    # A table of positions must reach as far.
    layer = subject.layer(settings={"length": lengths[1]} if "length" in subject.own else None).float()
    counts = [_flops(subject, layer, N) for N in lengths]
    if not all(counts):
        return  # adds and table look-ups only, which are not counted
    slope = math.log(counts[1] / counts[0], lengths[1] / lengths[0])
    if not abs(slope - subject.spec.cost.time) <= _TOLERANCE:
        raise Failed(
            f"time grows as N^{slope:.2f} from {lengths[0]} to {lengths[1]} tokens ({counts[0]:,} to {counts[1]:,} "
            f"operations); claimed N^{subject.spec.cost.time:g}."
        )


def state(subject: Subject) -> None:
    """What decoding keeps grows with the number of tokens as claimed."""
    layer = subject.layer().float()
    sizes = []
    for N in (256, 512):
        x = torch.randn(1, N, subject.dim)
        with torch.no_grad():
            sizes.append(_bytes(layer.prefill(x, embeddings=x)[1].inner))
    slope = math.log(max(sizes[1], 1) / max(sizes[0], 1), 2)
    if not abs(slope - subject.spec.cost.state) <= _TOLERANCE:
        raise Failed(
            f"state grows as N^{slope:.2f} from 256 to 512 tokens ({sizes[0]:,} to {sizes[1]:,} bytes); claimed "
            f"N^{subject.spec.cost.state:g}."
        )


def _flops(subject: Subject, layer: Layer, N: int) -> int:
    """Operations of the part that the spec is about, for one sequence of N tokens."""
    causal = subject.modes[0]
    x = torch.randn(1, N, subject.dim)
    call = Call(tokens=x, memory=x, causal=causal)
    work: Callable[[], object] = lambda: layer(x, causal=causal, embeddings=x)  # noqa: E731
    if isinstance(layer, Attention):
        with torch.no_grad():
            q, k, v = layer.projection(call)
        call = call.with_(q=q)
        pieces: dict[str, Callable[[], object]] = {
            "projection": lambda: layer.projection(call),
            "position": lambda: layer.position.edits(q, k, call),
            "mixer": lambda: layer.mixer(q, k, v, call),
            "merge": lambda: layer.merge(q, call),
        }
        work = pieces.get(subject.spec.slot, work)
    return operations(work)


def _bytes(kept: Any) -> int:
    """Bytes of every tensor in a state, but for positions."""
    if isinstance(kept, Held):
        return kept.nbytes
    if isinstance(kept, Tensor):
        return kept.numel() * kept.element_size()
    if isinstance(kept, (tuple, list)):
        return sum(map(_bytes, kept))
    if dataclasses.is_dataclass(kept) and not isinstance(kept, type):
        return sum(_bytes(getattr(kept, field.name)) for field in dataclasses.fields(kept))
    return 0


def _keeps(subject: Subject) -> bool:
    spec = subject.spec
    return spec.decode and spec.causal and spec.slot in ("mixer", "layer")


def _of_tokens(subject: Subject) -> bool:
    return subject.spec.slot != "depth"  # as many sources as a model has layers, and no thousands: it has its own check


CHECKS = (Check("cost: time", time, _of_tokens), Check("cost: state", state, _keeps))
