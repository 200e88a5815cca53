"""Mechanisms along the layers: tokens never meet, wrong sources are refused, and the state grows as claimed."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from regard.mechanisms import Depth, Layer
from regard.testing.checks import cost
from regard.testing.checks.base import Check
from regard.testing.failed import Failed, different, same
from regard.testing.operations import operations
from regard.testing.subject import Subject, generator

B, N, S = 2, 5, 7


def apart(subject: Subject) -> None:
    """What a token reads depends on its own sources alone, all at once and source by source, with gradients."""
    depth, x = _depth(subject), _sources(subject).requires_grad_()
    out = depth(x)
    same("many tokens, and each alone", out, torch.cat([depth(x[:, n : n + 1]) for n in range(N)], 1))
    (slope,) = torch.autograd.grad(out[:, 2].square().sum(), x)
    others = [n for n in range(N) if n != 2]
    same("the gradient of token 2 to the others", slope[:, others], torch.zeros_like(slope[:, others]), 0)
    different("tokens with other sources", out[:, 1], out[:, 2])
    state, reads = depth.init_state(), []
    for source in x.unbind(2):
        read, state = depth.step(state, source)
        reads.append(read)
    same("source by source", torch.stack(reads, 2), out)
    same("sources in a list", depth(list(x.unbind(2))), out, 0)


def misplaced(subject: Subject) -> None:
    """No source, sources of several shapes, another width or too many raise ShapeError or ValueError, in words."""
    depth, x = _depth(subject), _sources(subject)
    wrong: dict[str, Callable[[], object]] = {
        "no source": lambda: depth([]),
        "none of many": lambda: depth(x[:, :, :0]),
        "sources of several shapes": lambda: depth([x[:, :, 0], x[:, :1, 1]]),
        "sources without tokens": lambda: depth(x[:, 0]),
        "sources of another width": lambda: depth(x[..., :-1]),
        "a source of another width": lambda: depth.step(depth.init_state(), x[:, :, 0, :-1]),
    }
    if depth.layers is not None:
        many = x[:, :, :1].expand(-1, -1, depth.layers + 1, -1)
        wrong["too many sources"] = lambda: depth(many)
        wrong["one source too many"] = lambda: _run(depth, many)
    for name, call in wrong.items():
        try:
            call()
        except ValueError as refused:
            if len(str(refused).split()) < 5:
                raise Failed(f"{name}: refused without a reason: {refused!s}") from refused
        else:
            raise Failed(f"{name}: nothing was raised.")


def time(subject: Subject) -> None:
    """Counted floating-point operations grow with the number of sources as claimed."""
    lengths = (256, 512)
    layer = subject.layer(settings=_long(subject, lengths[1])).float()
    counts = [_operations(layer, torch.randn(1, length, subject.dim)) for length in lengths]
    if all(counts):  # else adds alone, which are not counted
        _grows("time", counts, lengths, subject.spec.cost.time)


def state(subject: Subject) -> None:
    """What is kept between sub-layers grows with the number of sources as claimed."""
    lengths = (256, 512)
    depth = subject.layer(settings=_long(subject, lengths[1])).float().get_submodule("depth")
    assert isinstance(depth, Depth)
    kept, sizes = depth.init_state(), []
    with torch.no_grad():
        for at in range(1, lengths[1] + 1):
            _, kept = depth.step(kept, torch.randn(1, 1, subject.dim))
            if at in lengths:
                sizes.append(cost._bytes(kept.inner))
    _grows("state", sizes, lengths, subject.spec.cost.state)


def _grows(what: str, sizes: list[int], lengths: tuple[int, int], claimed: float) -> None:
    slope = math.log(sizes[1] / sizes[0], lengths[1] / lengths[0])
    if not abs(slope - claimed) <= 0.3:
        raise Failed(
            f"{what} grows as S^{slope:.2f} from {lengths[0]} to {lengths[1]} sources ({sizes[0]:,} to {sizes[1]:,}); "
            f"claimed S^{claimed:g}."
        )


def _operations(layer: Layer, x: Tensor) -> int:
    return operations(lambda: layer(x, causal=True))


def _long(subject: Subject, length: int) -> dict[str, object] | None:
    return {"length": length} if "length" in subject.own else None


def _run(depth: Depth, sources: Tensor) -> None:
    state = depth.init_state()
    with torch.no_grad():
        for source in sources.unbind(2):
            _, state = depth.step(state, source)


def _depth(subject: Subject) -> Depth:
    found = subject.layer().get_submodule("depth")
    assert isinstance(found, Depth)
    return found


def _sources(subject: Subject) -> Tensor:
    return torch.randn(B, N, S, subject.dim, generator=generator(12), dtype=torch.float64)


def _along(subject: Subject) -> bool:
    return subject.spec.slot == "depth"


CHECKS = (
    Check("depth: tokens apart", apart, _along),
    Check("depth: refuses wrong sources", misplaced, _along),
    Check("depth: time", time, _along),
    Check("depth: state", state, _along),
)
