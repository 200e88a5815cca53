"""Documents packed into one sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.mechanisms import Layer
from regard.testing.checks.base import Check
from regard.testing.failed import Failed, different, same
from regard.testing.subject import Subject

LENGTHS = (5, 7, 4)


def packed(subject: Subject) -> None:
    """Documents packed into one row come out as each does alone, and none gets a gradient from another."""
    layer = subject.layer()
    parts = [subject.tokens(seed=20 + n, batch=1, length=length) for n, length in enumerate(LENGTHS)]
    ids = torch.arange(len(LENGTHS)).repeat_interleave(torch.tensor(LENGTHS))
    row = torch.cat(parts, 1)
    padded = torch.cat(
        [subject.tokens(seed=24, batch=1, length=2) * 20, row, subject.tokens(seed=25, batch=1, length=2)], 1
    )
    real = torch.zeros(padded.shape[:2], dtype=torch.bool)
    real[:, 2:-2] = True
    for causal in subject.modes:
        alone = torch.cat([layer(part, causal=causal, embeddings=part) for part in parts], 1)
        x = row.clone().requires_grad_()
        out = layer(x, causal=causal, documents=ids, embeddings=x)
        same(f"documents packed (causal={causal})", out, alone)
        different(f"one document instead of three (causal={causal})", layer(row, causal=causal, embeddings=row), alone)
        _apart(layer, x, out, ids)
        if subject.spec.padding:
            wide = torch.cat([ids.new_zeros(2), ids, ids.new_full((2,), 9)])[None]
            inside = layer(padded, causal=causal, padding=real, documents=wide, embeddings=padded)
            same(f"documents packed beside padding (causal={causal})", inside[:, 2:-2], alone)
        other = ids.flip(0).max() - ids.flip(0)  # a second row that is packed another way
        both = torch.cat([row, row.flip(1)])
        many = layer(both, causal=causal, documents=torch.stack([ids, other]), embeddings=both)
        same(f"a row beside one packed another way (causal={causal})", many[:1], alone)


def _apart(layer: Layer, x: Tensor, out: Tensor, ids: Tensor) -> None:
    for document in range(len(LENGTHS)):
        (slope,) = torch.autograd.grad(out[:, ids == document].square().sum(), x, retain_graph=True)
        leaked = float(slope[:, ids != document].abs().max())
        if leaked:
            raise Failed(f"document {document} moves with the tokens of another: a gradient of {leaked:.3g}.")


CHECKS = (Check("packed documents", packed, lambda subject: subject.spec.packing),)
