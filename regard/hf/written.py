"""Masks that a model hands over as tensors."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard.edits import Bias, Edit
from regard.errors import Unsupported
from regard.masks import Mask


@dataclass(frozen=True, eq=False)
class Written(Mask):
    """A boolean table of pairs, by token number: positions plus shifts.

    Shapes: `table` [B|1, H|1, N|1, M]; `q_start`, `k_start` are the positions of its first row and column, [B] or
    numbers. Outside the table nothing is allowed.
    """

    table: Tensor
    q_start: Tensor | int
    k_start: Tensor | int

    def at(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        row = i - (self.q_start[b] if isinstance(self.q_start, Tensor) else self.q_start)
        column = j - (self.k_start[b] if isinstance(self.k_start, Tensor) else self.k_start)
        B, H, N, M = self.table.shape
        inside = (column >= 0) & (column < M)
        if N > 1:
            inside = inside & (row >= 0) & (row < N)
        index = (
            b if B > 1 else torch.zeros_like(b),
            h if H > 1 else torch.zeros_like(h),
            row.clamp(0, N - 1) if N > 1 else torch.zeros_like(row),
            column.clamp(0, M - 1),
        )
        return self.table.to(i.device)[index] & inside


def parts(given: Tensor) -> tuple[Tensor | None, Edit | None]:
    """A 4-axis mask as a boolean table of what is allowed and an additive edit; None where there is none.

    Raises: Unsupported where it is neither boolean nor floating-point.
    """
    if given.dtype == torch.bool:
        return given, None
    if not given.dtype.is_floating_point:
        raise Unsupported(f"An attention mask of {given.dtype} can't be served; boolean and additive float masks can.")
    # Half of the least number: models add several masks or clip them, and no real bias is near it.
    allowed = given > torch.finfo(given.dtype).min / 2
    bias = torch.where(allowed, given, 0.0)
    return (None if bool(allowed.all()) else allowed), (Bias(bias) if bool(bias.any()) else None)
