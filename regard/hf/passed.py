"""What a model gives its attention modules beside what the interface passes on."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from functools import cache

from torch import Tensor, nn
from transformers.cache_utils import Cache, EncoderDecoderCache

from regard.hf.caches import HeldLayer
from regard.hf.select import Kind

_CACHES = ("cache", "past_key_values", "past_key_value", "layer_past")
_OTHERS = ("key_value_states", "encoder_hidden_states", "cross_attention_states")
_MASKS = ("attention_mask", "mask")


@dataclass(slots=True)
class Passed:
    """The arguments of one call of an attention module. `seen`: tokens in its cache before this call."""

    kind: Kind = "self"
    seen: int = 0
    cache: Cache | None = None
    layer: HeldLayer | None = None
    mask: object = None
    hidden: Tensor | None = None
    rotary: object = None
    arguments: dict[str, object] = field(default_factory=dict)


def passed(module: nn.Module, args: tuple, kwargs: dict, kind: Kind, number: int) -> Passed:
    """Read the arguments of an attention module; `kind` is what its name says, `number` its layer."""
    names = argument_names(type(module))
    given = {**dict(zip(names, args, strict=False)), **kwargs} if args else kwargs
    hidden = given.get(names[0])
    if not isinstance(hidden, Tensor):
        hidden = None
    for name in _OTHERS:
        other = given.get(name)
        if other is not None and other is not hidden and isinstance(other, Tensor):
            kind = "cross"
    found = Passed(kind, hidden=hidden, rotary=given.get("position_embeddings"), arguments=given)
    for name in _MASKS:
        if found.mask is None:
            found.mask = given.get(name)
    for name in _CACHES:
        whole = given.get(name)
        if whole is not None and isinstance(whole, Cache):
            return _with_cache(found, whole, number)
    return found


def _with_cache(found: Passed, whole: Cache, number: int) -> Passed:
    found.cache = whole
    if isinstance(whole, EncoderDecoderCache):
        found.cache = whole.cross_attention_cache if found.kind == "cross" else whole.self_attention_cache
    if found.kind == "cross":
        # The decoder's own cache tells how far decoding is; in this layer it already holds the tokens of this call.
        tokens = found.hidden.shape[-2] if found.hidden is not None else 0
        found.seen = max(0, _length(whole, number) - tokens)
    else:
        found.seen = _length(found.cache, number)
    return found


def _length(held: Cache, number: int) -> int:
    try:
        return int(held.get_seq_length(number))
    except ValueError:  # a layer without a length, such as a linear one
        return 0


@cache
def argument_names(kind: type[nn.Module]) -> tuple[str, ...]:
    """The names of a module's arguments, in order."""
    return tuple(inspect.signature(kind.forward).parameters)[1:]
