"""Rows of a batch do not know each other, and all that a layer is stands in its state dict."""

from __future__ import annotations

import torch

from regard.testing.checks.base import Check
from regard.testing.failed import Failed, different, same
from regard.testing.subject import Subject


def independent(subject: Subject) -> None:
    """A row of the batch comes out as it does alone, and each row moves."""
    layer, x = subject.layer(), subject.tokens(batch=3)
    for causal in subject.modes:
        out = layer(x, causal=causal, embeddings=x)
        for row in range(3):
            one = x[row : row + 1]
            same(f"row {row} alone (causal={causal})", layer(one, causal=causal, embeddings=one), out[row : row + 1])
        different("rows with different tokens", out[0], out[1])


def registered(subject: Subject) -> None:
    """Every tensor that shapes the output is a parameter or a buffer: a state dict makes the same layer."""
    layer, x = subject.layer(seed=0), subject.tokens()
    other = subject.layer(seed=7)
    other.load_state_dict(layer.state_dict())
    for causal in subject.modes:
        same(
            f"another layer with the same state dict (causal={causal})",
            other(x, causal=causal, embeddings=x),
            layer(x, causal=causal, embeddings=x),
            1e-12,
        )
    own = {id(p) for p in layer.parameters()} | {id(b) for b in layer.buffers()}
    for name, module in layer.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, torch.Tensor) and value.requires_grad and id(value) not in own:
                raise Failed(f"{name}.{key} wants a gradient and is not registered. Make it an nn.Parameter.")


CHECKS = (Check("batch independence", independent), Check("all in the state dict", registered))
