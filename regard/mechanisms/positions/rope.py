"""Rotary position embedding, and the ways to stretch it to longer texts."""

from __future__ import annotations

import math
from typing import ClassVar

from torch import Tensor

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.position import Position
from regard.mechanisms.rotary import even, frequencies, llama3, ntk, turned, yarn

_SCALINGS = ("none", "linear", "ntk", "yarn", "llama3")


class RoPE(Position):
    """Pairs of features of queries and keys turn with the position, so that scores know the distance alone.

    Pair m is features m and m + D / 2, or 2m and 2m + 1 where `interleaved`. `scaling` stretches positions by `factor`:
    "linear" divides them, "ntk" raises the base, "yarn" and "llama3" slow the slow pairs only, counted in turns over
    `original_length` tokens. `attention_factor` multiplies queries and keys of "yarn", by default 0.1 ln(factor) + 1.

    Shapes: queries [B, H, N, D], keys [B, G, M, D], D even; as they came.
    Raises: ShapeError for odd D; ValueError for a setting out of range, or one that the scaling does not have.
    Source: "RoFormer", 2104.09864, section 3.2; YaRN, 2309.00071; Llama 3.1's and the NTK-aware scaling as in their
    code.
    Differs from the paper: features are paired across the two halves unless `interleaved`, as pretrained models do.
    """

    spec: ClassVar[Spec] = Spec(
        id="rope",
        slot="position",
        source=Source(
            "RoFormer: Enhanced Transformer with Rotary Position Embedding",
            "2104.09864",
            "section 3.2",
            authors="Su, Jianlin and Lu, Yu and Pan, Shengfeng and Murtadha, Ahmed and Wen, Bo and Liu, Yunfeng",
        ),
        what="Pairs of features of queries and keys turn with the position; scores know the distance.",
        formula="q'_n = R(n) q_n,  k'_n = R(n) k_n,  R turns pair m by n base^(-2m / D)",
        cross=True,
        cost=Cost(time=1, state=0),
        limits=(Limit("rope"), Limit("rope_interleaved", interleaved=True)),
        variants=(
            {"interleaved": True},
            {"scaling": "yarn", "factor": 4.0, "original_length": 64},
            {"scaling": "llama3", "factor": 4.0, "original_length": 64},
        ),
    )

    def __init__(
        self,
        *,
        base: float = 10000.0,
        interleaved: bool = False,
        scaling: str = "none",
        factor: float = 1.0,
        original_length: int | None = None,
        low_freq_factor: float = 1.0,
        high_freq_factor: float = 4.0,
        beta_fast: float = 32.0,
        beta_slow: float = 1.0,
        attention_factor: float | None = None,
    ) -> None:
        super().__init__()
        self.base, self.interleaved, self.scaling, self.factor = base, interleaved, scaling, factor
        self.low_freq_factor, self.high_freq_factor = low_freq_factor, high_freq_factor
        self.beta_fast, self.beta_slow = beta_fast, beta_slow
        self.one_of("scaling", _SCALINGS)
        self.at_least(factor=1)
        if not base > 1:
            raise ValueError(f"RoPE.base must be greater than 1; got {base}. Type base=10000.0.")
        if scaling == "none" and factor != 1:
            raise ValueError(f"RoPE.factor={factor} needs a scaling. Type scaling='yarn', or leave factor= out.")
        if scaling in ("yarn", "llama3") and (original_length is None or original_length < 1):
            raise ValueError(
                f"RoPE.scaling={scaling!r} needs the length that the model was trained at; got {original_length}. "
                "Type original_length=8192."
            )
        if attention_factor is not None and (scaling != "yarn" or not attention_factor > 0):
            raise ValueError(
                f"RoPE.attention_factor must be greater than 0 and goes with scaling='yarn'; got {attention_factor} "
                f"with {scaling!r}. Leave attention_factor= out."
            )
        for low, high in (("low_freq_factor", "high_freq_factor"), ("beta_slow", "beta_fast")):
            if not 0 < getattr(self, low) < getattr(self, high):
                raise ValueError(
                    f"RoPE.{low} must be above 0 and below {high}; got {getattr(self, low)} and {getattr(self, high)}."
                )
        self.original_length = original_length or 0
        usual = 0.1 * math.log(factor) + 1 if scaling == "yarn" else 1.0
        self.attention_factor = usual if attention_factor is None else attention_factor

    def steps(self, width: int, like: Tensor) -> Tensor:
        """Each pair's angle per token, after scaling.

        Shapes: [width / 2], on the device of `like`, in at least float32.
        """
        base = ntk(width, self.base, self.factor) if self.scaling == "ntk" else self.base
        steps = frequencies(width, base, like)
        if self.scaling == "linear":
            return steps / self.factor
        if self.scaling == "yarn":
            return yarn(steps, self.base, self.factor, self.original_length, self.beta_fast, self.beta_slow)
        if self.scaling == "llama3":
            return llama3(steps, self.factor, self.original_length, self.low_freq_factor, self.high_freq_factor)
        return steps

    def turn(self, x: Tensor, positions: Tensor) -> Tensor:
        steps = self.steps(x.shape[-1], x)
        return turned(x, positions, steps, interleaved=self.interleaved, scale=self.attention_factor)

    def width(self, head_dim: int) -> None:
        even("RoPE", head_dim)
