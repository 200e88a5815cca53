"""Mechanisms: parts that are trained with a model, one file each, and what a part of each slot promises.

The package can be called: `regard.mechanisms(causal=True, slot="mixer")` gives the mechanisms by their ids.
"""

from __future__ import annotations

import sys
from types import ModuleType

from regard.mechanisms.across import Depth as Depth
from regard.mechanisms.across import DepthState as DepthState
from regard.mechanisms.call import Call as Call
from regard.mechanisms.layer import Layer as Layer
from regard.mechanisms.layer import LayerState as LayerState
from regard.mechanisms.merge import Merge as Merge
from regard.mechanisms.mixer import Mixer as Mixer
from regard.mechanisms.position import Position as Position
from regard.mechanisms.projection import LinearProjection as LinearProjection
from regard.mechanisms.projection import Projection as Projection
from regard.mechanisms.slot import Slot as Slot
from regard.mechanisms.walk import mechanisms as _mechanisms


class _Rooms(ModuleType):
    """This package, which answers a call with the mechanisms that are in it."""

    __call__ = staticmethod(_mechanisms)


sys.modules[__name__].__class__ = _Rooms
