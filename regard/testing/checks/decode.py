"""Decoding: step by step equals the whole pass, and a state is a value."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.mechanisms import Layer, LayerState
from regard.testing.checks.base import Check
from regard.testing.failed import same
from regard.testing.subject import LENGTH, Subject


def stepwise(subject: Subject) -> None:
    """One token at a time, or in chunks, equals the whole causal pass."""
    layer, x = subject.layer(), subject.tokens()
    whole = layer(x, causal=True, embeddings=x)
    for sizes in ((1,) * LENGTH, (5, 1, 3, 1, 2), (2, 10)):
        state, outs, at = layer.init_state(x.shape[0]), [], 0
        for size in sizes:
            chunk = x[:, at : at + size]
            out, state = layer.step(state, chunk, embeddings=chunk)
            outs.append(out)
            at += size
        same(f"in chunks of {', '.join(map(str, sizes))}", torch.cat(outs, 1), whole)


def prefilled(subject: Subject) -> None:
    """Steps after a prefill equal the whole pass."""
    layer, x = subject.layer(), subject.tokens()
    whole = layer(x, causal=True, embeddings=x)
    for start in (1, 4, 9):
        first = x[:, :start]
        out, state = layer.prefill(first, embeddings=first)
        same(f"a prefill of {start}", out, whole[:, :start])
        same(f"steps after a prefill of {start}", _on(layer, state, x[:, start:]), whole[:, start:])


def value(subject: Subject) -> None:
    """A state is left as it was by a step, and reordered rows go on as the rows they were."""
    layer, x = subject.layer(), subject.tokens()
    _, state = layer.prefill(x[:, :6], embeddings=x[:, :6])
    first, again = _on(layer, state, x[:, 6:]), _on(layer, state, x[:, 6:])
    same("a second time from the same state", again, first, 1e-12)
    index = torch.tensor([1, 0, 1])
    same("rows 1, 0, 1", _on(layer, layer.reorder(state, index), x[index][:, 6:]), first[index])


def padded(subject: Subject) -> None:
    """A prompt padded on either side goes on as it does alone."""
    layer, x = subject.layer(), subject.tokens(batch=1)
    whole = layer(x, causal=True, embeddings=x)
    for before, after in ((3, 0), (0, 3), (1, 2)):
        sides = [subject.tokens(seed=5 + n, batch=1, length=n) * 20 for n in (before, after)]
        prompt = torch.cat([sides[0], x[:, :6], sides[1]], 1)
        prompt = torch.cat([prompt, subject.tokens(seed=6, batch=1, length=9)])
        real = torch.ones(prompt.shape[:2], dtype=torch.bool)
        real[0, :before] = False
        real[0, before + 6 :] = False
        out, state = layer.prefill(prompt, padding=real, embeddings=prompt)
        same(f"the prompt after {before} and before {after} of padding", out[:1, before : before + 6], whole[:, :6])
        rest = torch.cat([x[:, 6:], subject.tokens(seed=7, batch=1, length=LENGTH - 6)])
        same(f"steps after a prompt padded by {before} and {after}", _on(layer, state, rest)[:1], whole[:, 6:])


def _on(layer: Layer, state: LayerState, tokens: Tensor) -> Tensor:
    outs = []
    for at in range(tokens.shape[1]):
        one = tokens[:, at : at + 1]
        out, state = layer.step(state, one, embeddings=one)
        outs.append(out)
    return torch.cat(outs, 1)


def _decodes(subject: Subject) -> bool:
    return subject.spec.decode and subject.spec.causal


CHECKS = (
    Check("decode: step by step", stepwise, _decodes),
    Check("decode: after a prefill", prefilled, _decodes),
    Check("decode: a state is a value", value, _decodes),
    Check("decode: padded prompt", padded, lambda subject: _decodes(subject) and subject.spec.padding),
)
