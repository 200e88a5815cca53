"""Gradients: every parameter gets one, and they are right."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.testing.checks.base import Check
from regard.testing.failed import Failed, finite
from regard.testing.subject import LENGTH, Subject, generator


def reach(subject: Subject) -> None:
    """Every parameter and the tokens get a gradient that is finite and not zero."""
    try:
        _reach(subject, LENGTH)
    except Failed:
        _reach(subject, 12 * LENGTH)  # what works in segments may need some


def _reach(subject: Subject, length: int) -> None:
    layer, x = subject.layer().train(), subject.tokens(length=length).requires_grad_()
    reached: set[str] = set()
    for causal in subject.modes:
        layer.zero_grad()
        out = layer(x, causal=causal, embeddings=x)
        weight = torch.randn(out.shape, generator=generator(3), dtype=out.dtype)
        (out * weight).sum().backward()
        for name, parameter in layer.named_parameters():
            if parameter.grad is not None:
                finite(f"the gradient of {name}", parameter.grad)
                if parameter.grad.abs().max() > 1e-12:
                    reached.add(name)
    wanted = {name for name, p in layer.named_parameters() if p.requires_grad and not _inert(subject, name)}
    if lost := wanted - reached:
        raise Failed(f"no gradient reaches {', '.join(sorted(lost))}.")
    if x.grad is None or not x.grad.abs().max() > 0:
        raise Failed("no gradient reaches the tokens.")


def right(subject: Subject) -> None:
    """Gradients equal finite differences, in float64."""
    for causal in subject.modes:
        layer, x = subject.layer(), subject.tokens(batch=1, length=5).requires_grad_()
        held = [p for p in layer.parameters() if p.requires_grad]

        def call(x: Tensor, *_: Tensor, layer: torch.nn.Module = layer, causal: bool = causal) -> Tensor:
            return layer(x, causal=causal, embeddings=x)

        try:
            torch.autograd.gradcheck(call, (x, *held), fast_mode=True, eps=1e-6, atol=1e-5, rtol=1e-4)
        except RuntimeError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise Failed(f"gradcheck (causal={causal}): {' '.join(lines[:3])}") from error


def _inert(subject: Subject, name: str) -> bool:
    return any(name == inert or name.endswith(f".{inert}") for inert in subject.spec.inert)


CHECKS = (Check("gradients reach", reach), Check("gradcheck", right))
