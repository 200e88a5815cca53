"""Methods for pretrained models: interventions that a person chooses by name, each with a spec and an identity.

`from regard.methods import StreamingLLM` finds any method's class, `regard.methods.create("streaming_llm")` makes it by
its id. The package can be called: `regard.methods()` gives the methods by their ids.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regard.methods.cache.sliding_window import SlidingWindow as SlidingWindow
    from regard.methods.cache.streaming_llm import StreamingLLM as StreamingLLM
    from regard.methods.dense import Dense as Dense
    from regard.methods.method import Method as Method
    from regard.methods.registry import create as create
    from regard.methods.registry import parse as parse
    from regard.methods.sparse.moba import MoBA as MoBA
    from regard.methods.sparse.oracle_top_k import OracleTopK as OracleTopK
    from regard.methods.sparse.power_attention import PowerAttention as PowerAttention
    from regard.methods.sparse.random_blocks import RandomBlocks as RandomBlocks
    from regard.methods.sparse.spargeattn import SpargeAttn as SpargeAttn


def __getattr__(name: str) -> object:
    if name.startswith("_"):
        raise AttributeError(f"module 'regard.methods' has no attribute {name!r}")
    if name == "Method":
        return importlib.import_module("regard.methods.method").Method
    if name in ("create", "parse"):
        return getattr(importlib.import_module("regard.methods.registry"), name)
    found = {kind.__name__: kind for kind in importlib.import_module("regard.methods.registry").methods().values()}
    if name not in found:
        raise AttributeError(f"module 'regard.methods' has no attribute {name!r}; it has {', '.join(found)}.")
    return found[name]


class _Rooms(ModuleType):
    """This package, which answers a call with the methods that are in it."""

    def __call__(self) -> dict[str, type[Method]]:
        return importlib.import_module("regard.methods.registry").methods()


sys.modules[__name__].__class__ = _Rooms
