"""Real pretrained models: the only room that imports transformers, and only when a model is opened or run."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from regard.hf.intervention import Intervention as Intervention
from regard.hf.load import Loaded as Loaded
from regard.hf.load import load as load
from regard.hf.meter import Meter as Meter
from regard.hf.select import Sites as Sites
from regard.hf.select import everywhere as everywhere
from regard.hf.site import Site as Site

if TYPE_CHECKING:
    from regard.hf.applied import apply as apply
    from regard.hf.applied import can_rotate as can_rotate
    from regard.hf.applied import check as check
    from regard.hf.lift import from_hf as from_hf
    from regard.hf.run import Run as Run

_LATER = {
    "apply": "regard.hf.applied",
    "can_rotate": "regard.hf.applied",
    "check": "regard.hf.applied",
    "from_hf": "regard.hf.lift",
    "Run": "regard.hf.run",
}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module 'regard.hf' has no attribute {name!r}")
    value = getattr(importlib.import_module(_LATER[name]), name)
    globals()[name] = value
    return value
