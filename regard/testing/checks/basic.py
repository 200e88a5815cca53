"""Shapes, dtypes, inputs left alone, memory that was never written, large and missing numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from regard.testing.checks.base import Check
from regard.testing.failed import Failed, finite, same
from regard.testing.subject import Subject


def shape(subject: Subject) -> None:
    """Tokens [B, N, C] come out as [B, N, C], for one token too."""
    layer = subject.layer()
    for causal in subject.modes:
        for length in (1, 2, 12):
            x = subject.tokens(length=length)
            out = layer(x, causal=causal, embeddings=x)
            if out.shape != x.shape:
                raise Failed(f"tokens {list(x.shape)} came out as {list(out.shape)} (causal={causal}).")
            finite(f"{length} tokens (causal={causal})", out)


def dtype(subject: Subject) -> None:
    """The dtype that goes in comes out."""
    for kind in (torch.float32, torch.float64, torch.bfloat16):
        layer, x = subject.layer().to(kind), subject.tokens().to(kind)
        for causal in subject.modes:
            out = layer(x, causal=causal, embeddings=x)
            if out.dtype != kind:
                raise Failed(f"{kind} came out as {out.dtype} (causal={causal}).")


def untouched(subject: Subject) -> None:
    """What goes in is not written to: tokens, padding, positions, and the parameters."""
    layer, x = subject.layer(), subject.tokens()
    held = {name: p.clone() for name, p in layer.named_parameters()}
    places = torch.arange(x.shape[1])
    real = torch.ones(x.shape[:2], dtype=torch.bool)
    real[1, 8:] = not subject.spec.padding
    given = [x, places, real]
    before = [t.clone() for t in given]
    with torch.no_grad():
        for causal in subject.modes:
            layer(x, causal=causal, padding=real, embeddings=x)
            layer(x, causal=causal, positions=places, embeddings=x)
    for name, was, now in zip(("tokens", "positions", "padding"), before, given, strict=True):
        if not torch.equal(was, now):
            raise Failed(f"{name} were written to.")
    for name, parameter in layer.named_parameters():
        if not torch.equal(parameter, held[name]):
            raise Failed(f"parameter {name} was written to.")


def repeatable(subject: Subject) -> None:
    """Evaluating twice gives the same, and memory that was never written is never read."""
    layer, x = subject.layer(), subject.tokens()
    for causal in subject.modes:
        first = layer(x, causal=causal, embeddings=x)
        same("the second time", layer(x, causal=causal, embeddings=x), first, 1e-12)
        with _poisoned():
            again = layer(x, causal=causal, embeddings=x)
        finite("with NaN in unwritten memory", again)
        same("with NaN in unwritten memory", again, first, 1e-12)


def large(subject: Subject) -> None:
    """Tokens a thousand times as large give finite numbers and finite gradients, in float32."""
    layer = subject.layer().float()
    for causal in subject.modes:
        x = (subject.tokens() * 1e3).float().requires_grad_()
        out = layer(x, causal=causal, embeddings=x)
        finite(f"the output (causal={causal})", out)
        (slope,) = torch.autograd.grad(out.sum(), x)
        finite(f"the gradient (causal={causal})", slope)


def missing(subject: Subject) -> None:
    """A NaN among the tokens is still a NaN in that token's output: it is never hidden."""
    layer = subject.layer()
    for causal in subject.modes:
        x = subject.tokens()
        x[0, 5] = torch.nan
        out: Tensor = layer(x, causal=causal, embeddings=x)
        if not out[0, 5].isnan().any():
            raise Failed(f"token 5 is NaN and its output is {out[0, 5, :3].tolist()}... (causal={causal}).")
        finite(f"the other row of the batch (causal={causal})", out[1])


@contextmanager
def _poisoned() -> Iterator[None]:
    """Let `torch.empty` give NaN."""
    was, warn = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(was, warn_only=warn)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]


CHECKS = (
    Check("shape", shape),
    Check("dtype", dtype),
    Check("inputs untouched", untouched),
    Check("repeatable", repeatable),
    Check("large logits", large),
    Check("NaN stays NaN", missing),
)
