"""Fourier position embedding."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms.position import Position
from regard.mechanisms.rotary import even, frequencies, yarn


class FoPE(Position):
    """Each pair turns by a short Fourier series of all trained frequencies; those never seen whole do not turn.

    Frequencies with less than one turn in `length` tokens, the length of training, are left out; None keeps them all.
    Each head has its own coefficients, one at a pair's own frequency and noise of size `gain` everywhere; they are
    fixed unless `learnable`. `series` is how many pairs have one, by default as many as there are frequencies left;
    the others stay as they are ("paper"), or have cosine and sine of one ("code", `zero_pad`). `scaling` "linear" or
    "yarn" slows the frequencies that are kept by `factor`, as in RoPE, for texts longer than the trained ones.

    Shapes: queries and keys [B, heads, N, D], D even; as they came.
    Raises: ShapeError for odd D; ValueError for length < 1, gain < 0, more series than pairs, or a factor without a
    scaling.
    Source: "Fourier Position Embedding", 2412.17739, section 4, and its code.
    """

    spec: ClassVar[Spec] = Spec(
        id="fope",
        slot="position",
        source=Source(
            "Fourier Position Embedding: Enhancing Attention's Periodic Extension for Length Generalization",
            "2412.17739",
            "section 4",
            authors="Hua, Ermo and Jiang, Che and Lv, Xingtai and Zhang, Kaiyan and Sun, Youbang and Fan, Yuchen and "
            "Zhu, Xuekai and Qi, Biqing and Ding, Ning and Zhou, Bowen",
        ),
        what="Each pair turns by a Fourier series of the trained frequencies; the others do not turn.",
        formula="cos_p(n) = sum_w C_wp cos(w n),  sin_p(n) = sum_w S_wp sin(w n),  w >= 2 pi / length\n"
        "(a, b)_p' = (a cos_p - b sin_p, b cos_p + a sin_p)",
        cross=True,
        gqa=False,
        cost=Cost(time=1, state=0),
        limits=(Limit("fope"), Limit("rope", length=None, gain=0.0), Limit("softmax", length=6)),
        variants=({"learnable": True, "length": None}, {"zero_pad": "code"}, {"length": None, "series": 2}),
    )

    def __init__(
        self,
        heads: int,
        head_dim: int,
        *,
        length: int | None = 512,
        base: float = 10000.0,
        gain: float = 0.3,
        series: int | None = None,
        zero_pad: str = "paper",
        learnable: bool = False,
        scaling: str = "none",
        factor: float = 1.0,
    ) -> None:
        super().__init__()
        even("FoPE", head_dim)
        self.head_dim, self.length, self.base, self.gain, self.zero_pad = head_dim, length, base, gain, zero_pad
        self.scaling, self.factor = scaling, factor
        self.one_of("zero_pad", ("paper", "code"))
        self.one_of("scaling", ("none", "linear", "yarn"))
        self.at_least(gain=0, factor=1)
        if scaling == "none" and factor != 1:
            raise ValueError(f"FoPE.factor={factor} needs a scaling. Type scaling='linear', or leave factor= out.")
        if scaling == "yarn" and length is None:
            raise ValueError("FoPE.scaling='yarn' needs the length that the model was trained at. Type length=512.")
        if length is not None and length < 1:
            raise ValueError(f"FoPE.length must be at least 1, or None to keep all frequencies; got {length}.")
        if not base > 1:
            raise ValueError(f"FoPE.base must be greater than 1; got {base}. Type base=10000.0.")
        steps = frequencies(head_dim, base, torch.zeros((), dtype=torch.float64))
        # Frequencies fall, so those kept are the first.
        self.kept = len(steps) if length is None else int((steps >= 2 * math.pi / length).sum())
        self.series = self.kept if series is None else series
        if not 0 <= self.series <= len(steps):
            raise ValueError(f"FoPE.series must be from 0 to {len(steps)}, the number of pairs; got {series}.")
        self.cos: Tensor
        self.sin: Tensor
        for name in ("cos", "sin"):
            values = self._initial(heads)
            if learnable:
                self.register_parameter(name, nn.Parameter(values))
            else:
                self.register_buffer(name, values)

    def _initial(self, heads: int) -> Tensor:
        """One at each pair's own frequency, and noise: [heads, kept, series]."""
        spread = self.gain * math.sqrt(2 / max(1, self.kept * self.series + heads * self.series))
        values = torch.randn(heads, self.kept, self.series) * spread
        stride = math.ceil(self.kept / max(1, self.series))
        for pair in range(self.series):
            if pair * stride < self.kept:
                values[:, pair * stride, pair] += 1
        return values

    def steps(self, like: Tensor) -> Tensor:
        """The kept frequencies after scaling: [kept]; scaling does not change which are kept."""
        steps = frequencies(self.head_dim, self.base, like)
        if self.scaling == "linear":
            steps = steps / self.factor
        elif self.scaling == "yarn":
            steps = yarn(steps, self.base, self.factor, self.length or 1, 32.0, 1.0)
        return steps[: self.kept]

    def tables(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions [B|1, N], in at least float32: [B|1, heads, N, D / 2]."""
        steps = self.steps(like)
        angles = positions[:, None, :, None].to(steps.dtype) * steps
        cos, sin = angles.cos() @ self.cos.to(steps.dtype), angles.sin() @ self.sin.to(steps.dtype)
        rest = (0, self.head_dim // 2 - self.series)
        return functional.pad(cos, rest, value=1.0), functional.pad(sin, rest, value=float(self.zero_pad == "code"))

    def turn(self, x: Tensor, positions: Tensor) -> Tensor:
        cos, sin = self.tables(positions, x)
        a, b = x.to(cos.dtype).chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)

    def width(self, head_dim: int) -> None:
        if head_dim != self.head_dim:
            raise ShapeError(
                f"FoPE has tables for heads of width {self.head_dim}, and the projection has {head_dim} features to "
                "turn. Type position='rope', or projection='mha'."
            )
