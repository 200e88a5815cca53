"""Half precision, and compiling."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from regard.layers import Attention
from regard.mechanisms import Layer
from regard.testing.checks.base import Check
from regard.testing.failed import Failed, same
from regard.testing.subject import Subject, stir

_SEEDS = 4  # one draw of bfloat16 errors is noise


def bfloat16(subject: Subject) -> None:
    """The error in bfloat16 stays within the claimed multiple of plain attention's."""
    for causal in subject.modes:
        own = plain = 0.0
        for seed in range(_SEEDS):
            x = subject.tokens(seed=seed, length=24).bfloat16().double()
            own += _error(subject.layer(seed=seed), x, causal)
            torch.manual_seed(seed)
            plain += _error(stir(Attention(subject.dim, 4).double().eval(), seed + 1), x, causal)
        if not own <= subject.spec.bfloat16 * plain:
            raise Failed(
                f"the relative error is {own / _SEEDS:.4f}, {own / plain:.2f} times plain attention's "
                f"{plain / _SEEDS:.4f}; claimed at most {subject.spec.bfloat16} times (causal={causal})."
            )


def _error(layer: Layer, x: Tensor, causal: bool) -> float:
    """Relative error of a layer in bfloat16, its weights being exact in it."""
    low = layer.bfloat16()
    with torch.no_grad():
        got = low(x.bfloat16(), causal=causal, embeddings=x.bfloat16()).double()
        want = low.double()(x, causal=causal, embeddings=x)
    return float((got - want).norm() / want.norm())


def compiles(subject: Subject) -> None:
    """A compiled layer gives the same."""
    layer, x = subject.layer(), subject.tokens()
    for causal in subject.modes:
        torch._dynamo.reset()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compiled = torch.compile(layer, backend="aot_eager")
            got = compiled(x, causal=causal, embeddings=x)
        same(f"compiled (causal={causal})", got, layer(x, causal=causal, embeddings=x))


CHECKS = (Check("bfloat16 error", bfloat16), Check("compiles", compiles))
