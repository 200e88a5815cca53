"""What mechanisms must equal at their limits: float64, written from the formulas, sharing no code with any of them.

An oracle is a function `(layer, tokens, memory, causal) -> tokens` that reads nothing of the layer but its weights. It
is found by its name in the modules of this package.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from types import FunctionType

from torch import Tensor, nn

from regard.errors import RegardError

Oracle = Callable[[nn.Module, Tensor, Tensor | None, bool], Tensor]


def find(name: str) -> Oracle:
    """The oracle of this name. Raises: RegardError where there is none."""
    modules = [importlib.import_module(module.name) for module in pkgutil.iter_modules(__path__, f"{__name__}.")]
    known = {
        key: value
        for module in modules
        for key, value in vars(module).items()
        if isinstance(value, FunctionType) and value.__module__ == module.__name__ and not key.startswith("_")
    }
    if name not in known:
        raise RegardError(f"There is no oracle {name!r}; oracles are {', '.join(sorted(known))}.")
    return known[name]
