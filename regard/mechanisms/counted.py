"""Reading embeddings at counted positions: what contextual positions share."""

from __future__ import annotations

import torch
from torch import Tensor


def counts(gates: Tensor, seen: Tensor, most: int) -> Tensor:
    """How much gates add up to from each key to the last, none beyond `most`; keys not `seen` count nothing.

    Shapes: gates and result [B, H, N, M]; seen booleans that broadcast to it.
    """
    return gates.masked_fill(~seen, 0.0).flip(-1).cumsum(-1).flip(-1).clamp(max=most)


def between(whole: Tensor, places: Tensor) -> Tensor:
    """The entries of `whole` at fractional places, along the line between the two nearest.

    Shapes: whole [B, H, N, P], by whole place; places and result [B, H, N, M], from 0 to P - 1.
    """
    low = places.detach().nan_to_num(0.0).floor()  # a NaN is no index; it goes on in the weight
    part = places - low
    below, above = low.long(), (low.long() + 1).clamp(max=whole.shape[-1] - 1)
    return whole.gather(-1, below) * (1 - part) + whole.gather(-1, above) * part


def wide(x: Tensor) -> Tensor:
    """In at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
