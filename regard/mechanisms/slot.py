"""What the parts of every slot share: a spec, and the check that a call asks only for what the spec claims."""

from __future__ import annotations

import inspect
from typing import ClassVar

from torch import nn

from regard.core import Spec
from regard.errors import ShapeError, Unsupported
from regard.mechanisms.call import Call


class Slot(nn.Module):
    """One part of an attention layer. A class with a `spec` of its own is a mechanism."""

    spec: ClassVar[Spec]

    def extra_repr(self) -> str:
        """The settings that are plain values, as they are typed."""
        names = [p.name for p in inspect.signature(type(self)).parameters.values() if p.kind is p.KEYWORD_ONLY]
        held = {name: getattr(self, name) for name in names if hasattr(self, name)}
        plain = (bool, int, float, str, tuple, type(None))
        return ", ".join(f"{name}={value!r}" for name, value in held.items() if isinstance(value, plain))

    def allow(self, call: Call) -> None:
        """Raise Unsupported where the call asks for what the spec does not claim."""
        allow(self.spec, call, type(self).__name__)

    def at_least(self, **least: float) -> None:
        """Raise ValueError for the first setting below its least allowed value."""
        for name, bound in least.items():
            value = getattr(self, name)
            if not value >= bound:
                raise ValueError(f"{type(self).__name__}.{name} must be at least {bound}; got {value}.")

    def one_of(self, name: str, allowed: tuple[str, ...]) -> None:
        """Raise ValueError where a setting is not one of the allowed words."""
        value = getattr(self, name)
        if value not in allowed:
            words = ", ".join(map(repr, allowed))
            raise ValueError(f"{type(self).__name__}.{name} must be one of {words}; got {value!r}.")


def allow(spec: Spec, call: Call, name: str) -> None:
    """Raise Unsupported where a call asks for what a spec does not claim."""
    if call.causal and not spec.causal:
        raise Unsupported(f"{name} is not causal: its output would see later tokens. Type causal=False.")
    if not call.causal and not spec.bidirectional:
        raise Unsupported(f"{name} is defined for causal attention only. Type causal=True.")
    if call.cross and not spec.cross:
        raise Unsupported(f"{name} attends to its own tokens only. Leave memory out.")
    if not spec.padding and call.padded:
        raise Unsupported(f"{name} can't leave padding out. Give sequences of one length, without padding=.")
    if call.documents is not None and not spec.packing:
        raise Unsupported(f"{name} can't keep packed documents apart. Give one document a row, without documents=.")
    if call.edits and spec.slot == "mixer" and not spec.scores:
        made = ", ".join(type(edit).__name__ for edit in call.edits)
        raise Unsupported(
            f"{name} has no scores to edit, and the position asks for {made}. Use a position that turns or embeds, "
            "such as position='rope'."
        )


def divide(name: str, dim: int, heads: int) -> int:
    """The width of one head.

    Raises: ValueError where there are no heads; ShapeError where `dim` is not a multiple of `heads`.
    """
    if heads < 1 or dim < 1:
        raise ValueError(f"{name} needs dim >= 1 and heads >= 1; got dim={dim}, heads={heads}.")
    if dim % heads:
        fits = next(h for h in range(heads, 0, -1) if dim % h == 0)
        raise ShapeError(f"{name}: dim={dim} is not a multiple of heads={heads}. Type heads={fits}, or another dim.")
    return dim // heads
