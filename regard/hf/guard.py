"""Ways of generating that no cache of an intervention can serve, refused before they run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from regard.errors import Unsupported


@contextmanager
def guarded(model: nn.Module) -> Iterator[None]:
    """Look at the arguments of the model's `generate` while an intervention keeps keys and values of its own."""
    own = getattr(model, "generate", None)
    if own is None or "generate" in vars(model):
        yield
        return

    def generate(*args: object, **kwargs: object) -> object:
        _refuse(model, kwargs)
        return own(*args, **kwargs)

    object.__setattr__(model, "generate", generate)
    try:
        yield
    finally:
        object.__delattr__(model, "generate")


def _refuse(model: nn.Module, kwargs: dict[str, object]) -> None:
    settings = kwargs.get("generation_config") or getattr(model, "generation_config", None)

    def asked(name: str) -> object:
        return kwargs[name] if name in kwargs else getattr(settings, name, None)

    kind = asked("cache_implementation")
    if kind not in (None, "dynamic"):
        raise Unsupported(
            f"An intervention keeps its own keys and values here, so cache_implementation={kind!r} can't be used. "
            "Leave it unset."
        )
    if kwargs.get("assistant_model") is not None or asked("prompt_lookup_num_tokens") is not None:
        raise Unsupported(
            "Assisted decoding takes tokens back from the cache, which an intervention that lets tokens go can't do. "
            "Generate without assistant_model and prompt_lookup_num_tokens."
        )
    if isinstance(kwargs.get("past_key_values"), tuple):
        raise Unsupported("past_key_values must be a Cache, such as run.cache(); got a tuple.")
