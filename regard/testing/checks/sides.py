"""Another sequence to look at, padding on either side, and grouped heads."""

from __future__ import annotations

import torch

from regard.edits import Bias
from regard.mechanisms import Call
from regard.testing.checks.base import Check
from regard.testing.failed import Failed, different, finite, same
from regard.testing.subject import LENGTH, Subject, generator


def cross(subject: Subject) -> None:
    """Attention over another sequence, shorter or longer; over the tokens themselves it equals self-attention."""
    layer, x = subject.layer(), subject.tokens()
    for M in (1, 5, 30):
        memory = subject.tokens(seed=4, length=M)
        out = layer(x, memory)
        finite(f"{x.shape[1]} tokens over {M}", out)
        if out.shape != x.shape:
            same(f"{x.shape[1]} tokens over {M}", out, x)
        different(f"another memory of {M}", layer(x, subject.tokens(seed=5, length=M)), out)
        if subject.spec.padding:
            junk = torch.cat([memory, subject.tokens(seed=6, length=3) * 50], 1)
            real = torch.ones(junk.shape[:2], dtype=torch.bool)
            real[:, M:] = False
            same(f"memory of {M} and padding", layer(x, junk, memory_padding=real), out)
    if subject.spec.bidirectional:
        same("the tokens as their own memory", layer(x, x.clone()), layer(x))


def padding(subject: Subject) -> None:
    """Rows padded on either side come out as they do alone, and padding gets no gradient."""
    layer, x = subject.layer(), subject.tokens(batch=1)
    for causal in subject.modes:
        alone = layer(x, causal=causal, embeddings=x)
        for name, before, after in (("left", 3, 0), ("right", 0, 4), ("both", 2, 2)):
            sides = [subject.tokens(seed=5 + n, batch=1, length=n) * 20 for n in (before, after)]
            whole = torch.cat([sides[0], x, sides[1]], 1)
            real = torch.zeros(whole.shape[:2], dtype=torch.bool)
            real[:, before : before + x.shape[1]] = True
            # A second row without padding makes the batch ragged.
            ragged = torch.cat([whole, subject.tokens(seed=8, batch=1, length=whole.shape[1])]).requires_grad_()
            mask = torch.cat([real, torch.ones_like(real)])
            out = layer(ragged, causal=causal, padding=mask, embeddings=ragged)
            got = out[:1][real][None]
            same(f"padded on the {name} (causal={causal})", got, alone)
            row = ragged[1:].detach()
            same(
                f"the row beside one padded on the {name} (causal={causal})",
                out[1:],
                layer(row, causal=causal, embeddings=row),
            )
            (slope,) = torch.autograd.grad((got * got.detach()).sum(), ragged)
            finite("the gradient beside padding", slope)
            hidden = slope[~mask]
            same(f"the gradient to padding on the {name}", hidden, torch.zeros_like(hidden), 0)


def grouped(subject: Subject) -> None:
    """Grouped heads come out as the same heads repeated; a projection makes them at one of its settings."""
    if subject.spec.slot == "layer":
        raise Failed("a whole layer is not handed its heads, so gqa says nothing of it. Claim gqa=False.")
    if subject.spec.slot == "projection":
        _makes(subject)
        return
    layers = [subject.layer(settings={"projection": name}) for name in ("gqa:kv_heads=2", "mha")]
    few, many = layers
    state = few.state_dict()
    for key in ("projection.k.weight", "projection.v.weight"):
        state[key] = state[key].unflatten(0, (2, -1)).repeat_interleave(2, 0).flatten(0, 1)
    many.load_state_dict(state)
    x = subject.tokens()
    for causal in subject.modes:
        same(f"two groups repeated (causal={causal})", few(x, causal=causal), many(x, causal=causal))


def edited(subject: Subject) -> None:
    """Edits of the scores are applied: adding a product of the queries is the same as adding to the keys."""
    layer, width = subject.layer(), subject.dim // subject.heads
    mixer = layer.get_submodule("mixer")
    x, source = subject.tokens(), generator(11)
    q, k, v, more = (torch.randn(2, subject.heads, LENGTH, width, generator=source, dtype=x.dtype) for _ in range(4))
    bias = Bias(q @ more.transpose(-1, -2) / width**0.5)
    for causal in subject.modes:
        call = Call(tokens=x, memory=x, causal=causal)
        got = mixer(q, k, v, call.with_(edits=(bias,)))
        different(f"an edit of the scores (causal={causal})", got, mixer(q, k, v, call))
        if not subject.settings:  # at other settings scores may be more than products
            same(f"an edit of the scores (causal={causal})", got, mixer(q, k + more, v, call))


def _makes(subject: Subject) -> None:
    """Raise Failed unless a setting of the projection makes fewer key heads than query heads."""
    made = []
    for variant in ({}, *subject.spec.variants):
        settings = variant[0] if isinstance(variant, tuple) else variant
        layer = subject.layer(settings=settings)
        made.append((layer.get_submodule("projection").heads, layer.get_submodule("projection").kv_heads))
    if not any(kv_heads < heads for heads, kv_heads in made):
        raise Failed(f"no variant makes fewer key heads than query heads: {made}. Claim gqa=False, or name a variant.")


def _grouped(subject: Subject) -> bool:
    once = subject.spec.slot == "projection" and bool(subject.settings)  # all of its settings are looked at together
    return subject.spec.gqa and not subject.fixed and not once


def _edited(subject: Subject) -> bool:
    return subject.spec.slot == "mixer" and subject.spec.scores and not subject.fixed


CHECKS = (
    Check("cross", cross, lambda subject: subject.spec.cross),
    Check("padding", padding, lambda subject: subject.spec.padding),
    Check("grouped heads", grouped, _grouped),
    Check("edits of scores", edited, _edited),
)
