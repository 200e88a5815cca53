"""Rotary scores that also fall with the distance, harmonically."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.edits import ALiBi, Edit
from regard.mechanisms.call import Call
from regard.mechanisms.position import Position
from regard.mechanisms.rotary import even, frequencies, turned

_EULER = 0.5772156649015329  # H_n = digamma(n + 1) + this


@dataclass(frozen=True, eq=False, repr=False)
class HarmonicDecay(Edit):
    """`keep * scores - decay * H_|i - j|` for every head, H_n = 1 + 1/2 + .. + 1/n.

    Shapes: keep and decay floats [H].
    """

    keep: Tensor
    decay: Tensor

    def at(self, scores: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        wide = torch.promote_types(scores.dtype, torch.float32)
        far = torch.digamma((i - j).abs().to(wide) + 1) + _EULER
        return (self.keep.to(wide)[h] * scores - self.decay.to(wide)[h] * far).to(scores.dtype)


class HarmonicPosition(Position):
    """Queries and keys turn as in RoPE, and scores fall with the distance as well, in head h at slope `slope` / h.

    `mode` "factor" weighs the two, `a` to 1 - a, and brings the larger back to 1; `learned` lets each head find its
    own a. "bias" subtracts the slope times the harmonic number of the distance, "linear" times the distance.

    Shapes: queries [B, H, N, D], keys [B, G, M, D], D even; as they came, and their scores.
    Raises: ShapeError for odd D; ValueError for an unknown mode, `a` outside [0, 1], or at an end of it where
    learned, or slope < 0.
    Source: "The Nature of Mathematical Modeling and Probabilistic Optimization Engineering in Generative AI", its
    factored combination of RoPE and ALiBi.
    Differs from the paper: it names the combination and the harmonic series; how the two are weighed, and that keys
    after the query are penalised by the same distance, is this code's.
    """

    spec: ClassVar[Spec] = Spec(
        id="harmonic",
        slot="position",
        source=Source(
            "The Nature of Mathematical Modeling and Probabilistic Optimization Engineering in Generative AI"
        ),
        what="Rotary scores weighed against a harmonic fall with the distance.",
        formula="r_ij = (R(i) q_i) (R(j) k_j) / sqrt(D),  H_n = 1 + 1/2 + .. + 1/n,  n = |i - j|,  m_h = slope / h\n"
        "factor: s_ij = (a r_ij - (1 - a) m_h H_n) / max(a, 1 - a);  bias: r_ij - m_h H_n;  linear: r_ij - m_h n",
        cross=True,
        scores=True,
        entry="probabilistic_flash",
        cost=Cost(time=1, state=0),
        limits=(
            Limit("harmonic"),
            Limit("rope", a=1.0),
            Limit("rope", slope=0.0),
            Limit("rope", mode="bias", slope=0.0),
        ),
        variants=({"mode": "bias"}, {"mode": "linear"}, {"learned": True, "a": 0.7}),
    )

    def __init__(
        self,
        heads: int,
        *,
        mode: str = "factor",
        a: float = 0.5,
        slope: float = 1.0,
        learned: bool = False,
        base: float = 10000.0,
    ) -> None:
        super().__init__()
        self.mode, self.slope, self.base = mode, slope, base
        self.at_least(slope=0)
        self.one_of("mode", ("factor", "bias", "linear"))
        if not 0 <= a <= 1:
            raise ValueError(f"HarmonicPosition.a weighs rotary scores, from 0 to 1; got {a}. Type a=0.5.")
        if learned and (mode != "factor" or a in (0, 1)):
            raise ValueError(
                f"HarmonicPosition.learned goes with mode='factor' and a between 0 and 1; got mode={mode!r}, a={a}. "
                "Leave learned= out."
            )
        if not base > 1:
            raise ValueError(f"HarmonicPosition.base must be greater than 1; got {base}. Type base=10000.0.")
        self.a = nn.Parameter(torch.full((heads,), math.log(a / (1 - a)))) if learned else a
        slopes = slope / torch.arange(1, heads + 1, dtype=torch.float64)
        self.slopes = tuple(slopes.tolist())
        self.line = ALiBi(slopes)

    def turn(self, x: Tensor, positions: Tensor) -> Tensor:
        return turned(x, positions, frequencies(x.shape[-1], self.base, x))

    def edits(self, q: Tensor, k: Tensor, call: Call) -> tuple[Edit, ...]:
        if self.mode == "linear":
            return (self.line,)
        wide = torch.promote_types(q.dtype, torch.float32)
        slopes = torch.tensor(self.slopes, dtype=wide, device=q.device)
        if self.mode == "bias":
            return (HarmonicDecay(torch.ones_like(slopes), slopes),)
        a = self.a.to(wide).sigmoid() if isinstance(self.a, Tensor) else torch.full_like(slopes, self.a)
        larger = torch.maximum(a, 1 - a)
        return (HarmonicDecay(a / larger, (1 - a) / larger * slopes),)

    def width(self, head_dim: int) -> None:
        even("HarmonicPosition", head_dim)
