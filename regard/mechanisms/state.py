"""The state of decoding as a value: made of tensors, it can be reordered without knowing what it means."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from regard.caches import Held


def reordered(state: Any, index: Tensor) -> Any:
    """A state for the batch's rows `index`: every tensor in it has the batch first, or size 1 there for all rows."""
    if isinstance(state, Held):
        return state.reorder(index)
    if isinstance(state, Tensor):
        return state if state.shape[0] == 1 and index.max() > 0 else state[index]
    if isinstance(state, (tuple, list)):
        return type(state)(reordered(part, index) for part in state)
    if dataclasses.is_dataclass(state) and not isinstance(state, type):
        fields = {f.name: reordered(getattr(state, f.name), index) for f in dataclasses.fields(state)}
        return dataclasses.replace(state, **fields)
    return state
