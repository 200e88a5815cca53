"""regard: every attention mechanism and method as a small, correct, measured part.

Importing this package runs nothing: every name below is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regard.hf.applied import apply as apply
    from regard.hf.applied import check as check
    from regard.hf.lift import from_hf as from_hf
    from regard.hf.load import load as load
    from regard.layers.attention import Attention as Attention
    from regard.layers.create import create as create
    from regard.mechanisms.walk import mechanisms as mechanisms
    from regard.methods.registry import methods as methods
    from regard.ops.attend import attend as attend
    from regard.ops.attend import explain as explain
    from regard.ops.recurrence.front import recur as recur
    from regard.ops.state import State as State
    from regard.ops.state import merge as merge

__version__ = "0.1.0"

# Packages found by their names; `regard.mechanisms()` and `regard.methods()` can be called too.
_ROOMS = (
    "backbones",
    "bench",
    "caches",
    "core",
    "edits",
    "errors",
    "hf",
    "layers",
    "lens",
    "masks",
    "mechanisms",
    "methods",
    "ops",
    "testing",
)
_HOME = {
    "Attention": "regard.layers.attention",
    "apply": "regard.hf.applied",
    "attend": "regard.ops.attend",
    "check": "regard.hf.applied",
    "create": "regard.layers.create",
    "explain": "regard.ops.attend",
    "from_hf": "regard.hf.lift",
    "load": "regard.hf.load",
    "merge": "regard.ops.state",
    "recur": "regard.ops.recurrence.front",
    "State": "regard.ops.state",
}


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return importlib.import_module(f"regard.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'regard' has no attribute {name!r}; it has {', '.join((*_HOME, *_ROOMS))}.")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_ROOMS})
