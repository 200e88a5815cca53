"""Edits that add something to the scores."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from regard.edits.base import Edit, by_head, check_heads, setting
from regard.errors import ShapeError


@dataclass(frozen=True, eq=False, init=False, repr=False)
class ALiBi(Edit):
    """Subtract `slope * |i - j|`, with one slope per query head: `ALiBi(heads=8)` has the paper's slopes.

    Shapes: `slopes` floats [H].
    Raises: ValueError unless exactly one of `slopes` and `heads` is given; ShapeError where slopes are not [H].
    Source: "Train Short, Test Long", 2108.12409, section 3; slopes for other than 2^n heads as in its code.
    Differs from the paper: keys after the query are penalised too, by the same distance (the paper is causal).
    """

    additive: ClassVar[bool] = True
    slopes: Tensor

    def __init__(self, slopes: Tensor | Sequence[float] | None = None, *, heads: int | None = None) -> None:
        if (slopes is None) == (heads is None):
            raise ValueError("ALiBi needs either slopes [H] or heads=H; type ALiBi(heads=8).")
        if slopes is None:
            slopes = _standard_slopes(heads or 0)
        given = slopes if isinstance(slopes, Tensor) else torch.tensor([float(s) for s in slopes])
        if given.dim() != 1:
            raise ShapeError(f"ALiBi.slopes must be floats [H], one per query head; got {list(given.shape)}.")
        setting(given, "ALiBi.slopes")
        object.__setattr__(self, "slopes", given)

    def bias(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        return -self.slopes.to(h.device, dtype)[h] * (i - j).abs()

    def check(self, B: int, H: int, N: int, M: int) -> None:
        check_heads(self.slopes, "ALiBi.slopes", H)

    def __repr__(self) -> str:
        return f"ALiBi(slopes=[{len(self.slopes)}])"


def _standard_slopes(heads: int) -> Tensor:
    if heads < 1:
        raise ValueError(f"ALiBi.heads must be at least 1; got {heads}.")
    power = 1 << (heads.bit_length() - 1)
    slopes = [2.0 ** (-8 * (n + 1) / power) for n in range(power)]
    between = [2.0 ** (-8 * (n + 1) / (2 * power)) for n in range(0, 2 * power, 2)]
    return torch.tensor(slopes + between[: heads - power])


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Bias(Edit):
    """Add a tensor, indexed by query row and key slot rather than by position.

    Shapes: `values` floats that broadcast to [B, H, N, M]; -inf hides a pair. Kept as four axes.
    Raises: ValueError where it is not a float tensor; ShapeError where it has more than four axes.
    """

    additive: ClassVar[bool] = True
    by_slot: ClassVar[bool] = True
    values: Tensor

    def __init__(self, values: Tensor) -> None:
        if not values.dtype.is_floating_point:
            cure = "pass a boolean mask as where=" if values.dtype == torch.bool else "use .float()"
            raise ValueError(f"Bias.values must be floats; got {values.dtype}. Cure: {cure}.")
        if values.dim() > 4:
            raise ShapeError(f"Bias.values must broadcast to [B, H, N, M]; got {list(values.shape)}.")
        object.__setattr__(self, "values", values[(None,) * (4 - values.dim())])

    def bias(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        sizes = self.values.shape
        index = tuple(place if size > 1 else 0 for place, size in zip((b, h, i, j), sizes, strict=True))
        return self.values.to(i.device)[index]

    def block(self, rows: slice, slots: slice | Tensor) -> Tensor:
        """The values for a block of query rows and key slots, [B|1, H|1, n|1, m|1], without a gather by element."""
        values = self.values if self.values.shape[2] == 1 else self.values[:, :, rows]
        return values if values.shape[3] == 1 else values[..., slots]

    def check(self, B: int, H: int, N: int, M: int) -> None:
        if any(size not in (1, whole) for size, whole in zip(self.values.shape, (B, H, N, M), strict=True)):
            raise ShapeError(
                f"Bias.values {list(self.values.shape)} do not broadcast to [B, H, N, M] = {[B, H, N, M]}."
            )

    def __repr__(self) -> str:
        return f"Bias({list(self.values.shape)})"


@dataclass(frozen=True, eq=False, init=False, repr=False)
class Emphasis(Edit):
    """Add `log_weight` to the scores of the keys whose position lies in one of the spans.

    Under softmax this equals multiplying the other keys' weights by exp(-log_weight) before they are normalised.

    Shapes: `spans` are half-open (start, stop) in key positions; keys in several spans count once. `log_weight` is a
    number or floats [H].
    Raises: ValueError where a span is empty or starts below 0, or the weight is not finite.
    Differs from the paper (PASTA's code, 2311.02262): the union of spans is emphasised, not each span in turn.
    """

    additive: ClassVar[bool] = True
    spans: tuple[tuple[int, int], ...]
    log_weight: float | Tensor

    def __init__(self, spans: Sequence[tuple[int, int]], log_weight: float | Tensor) -> None:
        object.__setattr__(self, "spans", _union(spans))
        if not isinstance(log_weight, Tensor) and log_weight == -math.inf:
            raise ValueError("Emphasis.log_weight must be finite; got -inf. To hide keys, pass a mask as where=.")
        object.__setattr__(self, "log_weight", setting(log_weight, "Emphasis.log_weight"))

    def bias(self, b: Tensor, h: Tensor, i: Tensor, j: Tensor, *, dtype: torch.dtype = torch.float32) -> Tensor:
        inside = j < 0
        for start, stop in self.spans:
            inside = inside | ((j >= start) & (j < stop))
        return inside.to(dtype) * by_head(self.log_weight, h)

    def check(self, B: int, H: int, N: int, M: int) -> None:
        check_heads(self.log_weight, "Emphasis.log_weight", H)

    def __repr__(self) -> str:
        weight = self.log_weight if not isinstance(self.log_weight, Tensor) else f"[{len(self.log_weight)}]"
        return f"Emphasis({list(self.spans)}, log_weight={weight})"


def _union(spans: Sequence[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[tuple[int, int]] = []
    for span in spans:
        if len(span) != 2 or span[0] < 0 or span[1] <= span[0]:
            raise ValueError(
                f"Emphasis.spans must be half-open (start, stop) with 0 <= start < stop; got {tuple(span)}."
            )
    for start, stop in sorted((int(a), int(b)) for a, b in spans):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(stop, merged[-1][1]))
        else:
            merged.append((start, stop))
    return tuple(merged)
