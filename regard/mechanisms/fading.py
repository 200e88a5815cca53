"""Rates at which heads forget: what the mechanisms share that fade at fixed ones."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.edits import ALiBi


def rates(name: str, slopes: float | tuple[float, ...] | None, heads: int) -> tuple[float, ...]:
    """One rate for each head: what was given, for all or one for each, or ALiBi's slopes.

    Raises: ValueError where one is below 0 or there is not one for each head.
    """
    each = ALiBi(heads=heads).slopes.tolist() if slopes is None else slopes
    found: tuple[float, ...] = (float(each),) * heads if isinstance(each, (int, float)) else tuple(each)
    if len(found) != heads or min(found) < 0:
        raise ValueError(
            f"{name}.slopes must be one number of at least 0, or {heads} of them, one for each head; got {slopes}. "
            "Leave slopes= out for ALiBi's."
        )
    return found


def staying(rates: tuple[float, ...], layer: int, layers: int | None, like: Tensor) -> Tensor:
    """The logarithm of what stays from token to token, [H]: less is forgotten with every one of `layers`.

    Raises: ValueError where there is no such layer.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    less = 1.0
    if layers is not None:
        if not 0 <= layer < layers:
            raise ValueError(f"This is layer {layer}, and layers={layers} were named. Type another layers=.")
        less = 1 - layer / max(layers - 1, 1) + 1e-5
    return -less * torch.tensor(rates, dtype=wide, device=like.device)
