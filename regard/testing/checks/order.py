"""Causality, both ways: the future can't move the past, and the past does move the present."""

from __future__ import annotations

import torch

from regard.testing.checks.base import Check
from regard.testing.failed import Failed, different, same
from regard.testing.subject import LENGTH, Subject


def no_future(subject: Subject) -> None:
    """With causal=True no later token moves an output, nor gets a gradient from it."""
    layer, x, other = subject.layer(), subject.tokens(), subject.tokens(seed=9)
    out = layer(x, causal=True, embeddings=x)
    for cut in range(1, LENGTH):
        changed = torch.cat([x[:, :cut], other[:, cut:] * 3], 1)
        got = layer(changed, causal=True, embeddings=changed)
        same(f"outputs before token {cut}, later tokens changed", got[:, :cut], out[:, :cut])
    y = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(layer(y, causal=True, embeddings=y)[:, 5].sum(), y)
    same("the gradient of output 5 to later tokens", slope[:, 6:], torch.zeros_like(slope[:, 6:]), 0)


def some_past(subject: Subject) -> None:
    """With causal=True the tokens before do move an output, but where the layer says they do not."""
    layer, x, other = subject.layer(), subject.tokens(), subject.tokens(seed=9)
    out = layer(x, causal=True, embeddings=x)
    alone = layer.alone
    if not 1 <= alone <= LENGTH // 2:
        raise Failed(f"the first {alone} of {LENGTH} tokens would see themselves alone; at most {LENGTH // 2} may.")
    for at in range(alone, LENGTH):
        changed = torch.cat([other[:, :at], x[:, at:]], 1)
        got = layer(changed, causal=True, embeddings=changed)
        different(f"output {at}, all tokens before it changed", got[:, at], out[:, at])


def prefix(subject: Subject) -> None:
    """With causal=True the outputs of a beginning are the beginning of the outputs."""
    layer, x = subject.layer(), subject.tokens()
    out = layer(x, causal=True, embeddings=x)
    for length in (1, 2, 5, 8, 11):
        start = x[:, :length]
        same(f"the first {length} tokens alone", layer(start, causal=True, embeddings=start), out[:, :length])


def both_sides(subject: Subject) -> None:
    """With causal=False later tokens do move an output, and so do earlier ones."""
    layer, x, other = subject.layer(), subject.tokens(), subject.tokens(seed=9)
    out = layer(x, causal=False, embeddings=x)
    for name, keep in (("later", slice(0, 6)), ("earlier", slice(5, LENGTH))):
        changed = other.clone()
        changed[:, keep] = x[:, keep]
        got = layer(changed, causal=False, embeddings=changed)
        different(f"output 5, all {name} tokens changed", got[:, 5], out[:, 5])


def _causal(subject: Subject) -> bool:
    return subject.spec.causal


CHECKS = (
    Check("causal: no future", no_future, _causal),
    Check("causal: some past", some_past, _causal),
    Check("causal: a beginning", prefix, _causal),
    Check("bidirectional: both sides", both_sides, lambda subject: subject.spec.bidirectional),
)
