"""What a comparison measures."""

from __future__ import annotations

from dataclasses import dataclass

from regard.errors import RegardError
from regard.methods.method import Method
from regard.methods.registry import parse

# Where a method's settings say how many keys a query sees, 512, so that rows can be compared.
TELLING = (
    "dense",
    "sliding_window:window=512",
    "streaming_llm:window=508,sinks=4",
    "streaming_llm:window=1020,sinks=4",
    "power_attention",
    "moba",
    "spargeattn",
    "oracle_top_k:k=512,block=64",
    "random_blocks",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Lengths in tokens: `context` is read at once, `decode` one by one after it; `needles` facts in each haystack.

    Raises: RegardError where one is out of range.
    """

    context: int = 4096
    decode: int = 32
    needles: int = 8
    stream: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name, least in (("context", 64), ("decode", 0), ("needles", 1), ("stream", 0), ("seed", 0)):
            if getattr(self, name) < least:
                raise RegardError(f"--{name} must be at least {least}; got {getattr(self, name)}.")
        if self.seed >= 2**32:
            raise RegardError(f"--seed must be below {2**32}; got {self.seed}.")


def chosen(texts: tuple[str, ...] | list[str]) -> list[Method]:
    """The methods to compare, dense first, each once; none named: a telling set.

    Raises: RegardError for an unknown method or setting.
    """
    found: dict[str, Method] = {}
    for text in ("dense", *(texts or TELLING)):
        method = parse(text)
        found.setdefault(method.label, method)
    return list(found.values())
