"""What a spec does not claim, the layer refuses."""

from __future__ import annotations

import torch

from regard.errors import ShapeError, Unsupported
from regard.testing.checks.base import Check
from regard.testing.failed import Failed
from regard.testing.subject import Subject


def refuses(subject: Subject) -> None:
    """A call that asks for what the spec does not claim raises Unsupported, in words."""
    spec, layer, x = subject.spec, subject.layer(), subject.tokens()
    real = torch.ones(x.shape[:2], dtype=torch.bool)
    real[1, 8:] = False
    mode = subject.modes[0]
    asked = {
        "causal": lambda: layer(x, causal=True, embeddings=x),
        "bidirectional": lambda: layer(x, causal=False, embeddings=x),
        "cross": lambda: layer(x, x.clone(), embeddings=x),
        "padding": lambda: layer(x, causal=mode, padding=real, embeddings=x),
        "packing": lambda: layer(x, causal=mode, documents=torch.arange(x.shape[1]) // 6, embeddings=x),
        "decode": lambda: layer.init_state(2),
    }
    if not subject.fixed and spec.slot in ("mixer", "position"):
        asked["gqa"] = lambda: subject.layer(settings={"projection": "gqa:kv_heads=2"})
    if not subject.fixed and spec.slot == "projection" and not spec.gqa:
        made = layer.get_submodule("projection")
        if made.kv_heads != made.heads:
            raise Failed(f"gqa is not claimed, and there are {made.kv_heads} key heads for {made.heads} query heads.")
    for flag, call in asked.items():
        if getattr(spec, flag):
            continue
        try:
            call()
        except Unsupported as refused:
            if len(str(refused).split()) < 5:
                raise Failed(f"{flag} is refused without a reason: {refused!s}") from refused
        else:
            raise Failed(f"{flag} is not claimed and is not refused.")


def misshapen(subject: Subject) -> None:
    """Tokens, memory or padding of a wrong shape raise ShapeError."""
    layer, x = subject.layer(), subject.tokens()
    mode = subject.modes[0]
    wrong = {
        "tokens without a batch": lambda: layer(x[0], causal=mode),
        "tokens of another width": lambda: layer(x[..., :-1], causal=mode),
        "padding of another length": lambda: layer(x, causal=mode, padding=torch.ones(2, 3, dtype=torch.bool)),
        "padding that is not boolean": lambda: layer(x, causal=mode, padding=torch.ones(x.shape[:2])),
        "positions of another length": lambda: layer(x, causal=mode, positions=torch.arange(3)),
        "memory of another batch": lambda: layer(x, x[:1]),
        "documents of another length": lambda: layer(x, causal=mode, documents=torch.arange(3)),
    }
    for name, call in wrong.items():
        try:
            call()
        except ShapeError:
            continue
        except Exception as error:
            raise Failed(f"{name}: raised {type(error).__name__} instead of ShapeError: {error}") from error
        raise Failed(f"{name}: nothing was raised.")


CHECKS = (Check("refuses the unclaimed", refuses), Check("refuses wrong shapes", misshapen))
