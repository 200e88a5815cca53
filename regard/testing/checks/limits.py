"""Limits: at the settings that a spec names, the layer equals an oracle."""

from __future__ import annotations

import fnmatch

import torch

from regard.core import Limit
from regard.testing.checks.base import Check
from regard.testing.failed import Failed, same
from regard.testing.oracles import find
from regard.testing.subject import Subject


def limits(subject: Subject) -> None:
    """At each limit that the spec names, the layer equals its oracle, which shares no code with it."""
    for limit in subject.spec.limits:
        at_limit(subject, limit)


def at_limit(subject: Subject, limit: Limit) -> None:
    """Raise Failed unless the layer equals the oracle at one limit."""
    layer = subject.layer(stirred=False, settings=dict(limit.settings))
    # Padding, order and values differ enough for a wrong oracle to show; parameters keep what they start with, but for
    # the linear maps that the oracle reads too.
    names = [name for name, _ in layer.named_parameters()]
    with torch.no_grad():
        for pattern in limit.zero:
            hit = [name for name in names if name == pattern or fnmatch.fnmatch(name, f"*{pattern}")]
            if not hit:
                raise Failed(f"there is no parameter {pattern} to set to zero; there are {', '.join(names)}.")
            for name in hit:
                layer.get_parameter(name).zero_()
    oracle = find(limit.oracle)
    x = subject.tokens()
    for causal in subject.modes:
        same(f"{limit} (causal={causal})", layer(x, causal=causal, embeddings=x), oracle(layer, x, None, causal))
    if subject.spec.cross:
        memory = subject.tokens(seed=4, length=7)
        same(f"{limit} (cross)", layer(x, memory), oracle(layer, x, memory, False))


def _limited(subject: Subject) -> bool:
    return bool(subject.spec.limits) and not subject.settings and not subject.fixed


CHECKS = (Check("limits", limits, _limited),)
