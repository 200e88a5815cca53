"""RoPE without its slowest pairs."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.position import Position
from regard.mechanisms.rotary import even, frequencies, turned


class PRoPE(Position):
    """Only the fastest share `p` of RoPE's pairs turn; the others carry meaning that no distance changes.

    `p` = 1 is RoPE and 0 no position. `control` are the paper's comparisons: "reversed" turns the slowest share
    instead, "partial" spreads RoPE's whole range of frequencies over the pairs that turn.

    Shapes: queries [B, H, N, D], keys [B, G, M, D], D even; as they came.
    Raises: ShapeError for odd D; ValueError for p outside [0, 1] or an unknown control.
    Source: "Round and Round We Go!", 2410.06205, section 6.
    Differs from the paper: the number of pairs that turn is rounded down, which the paper does not say.
    """

    spec: ClassVar[Spec] = Spec(
        id="p_rope",
        slot="position",
        source=Source(
            "Round and Round We Go! What makes Rotary Positional Encodings useful?",
            "2410.06205",
            "section 6",
            authors="Barbero, Federico and Vitvitskyi, Alex and Perivolaropoulos, Christos and Pascanu, Razvan and "
            "Veličković, Petar",
        ),
        what="Only the fastest share of RoPE's pairs turns with the position.",
        formula="q'_n = R(n) q_n,  k'_n = R(n) k_n,  R turns pair m by n base^(-2m / D) where m < p D / 2, else not",
        cross=True,
        cost=Cost(time=1, state=0),
        limits=(Limit("p_rope"), Limit("rope", p=1.0), Limit("softmax", p=0.0)),
        variants=({"interleaved": True}, {"control": "reversed"}, {"control": "partial"}),
    )

    def __init__(
        self, *, p: float = 0.75, base: float = 10000.0, control: str = "none", interleaved: bool = False
    ) -> None:
        super().__init__()
        self.p, self.base, self.control, self.interleaved = p, base, control, interleaved
        self.one_of("control", ("none", "reversed", "partial"))
        if not 0 <= p <= 1:
            raise ValueError(f"PRoPE.p is the share of pairs that turn, from 0 to 1; got {p}. Type p=0.75.")
        if not base > 1:
            raise ValueError(f"PRoPE.base must be greater than 1; got {base}. Type base=10000.0.")

    def steps(self, width: int, like: Tensor) -> Tensor:
        """Each pair's angle per token, 0 for those that stay.

        Shapes: [width / 2], on the device of `like`, in at least float32.
        """
        pairs = width // 2
        turning = math.floor(self.p * pairs + 1e-9)  # 0.29 * 100 is a little less than 29
        steps = frequencies(width, self.base, like)
        if self.control == "reversed":
            return torch.cat([steps.new_zeros(pairs - turning), steps[pairs - turning :]])
        if self.control == "partial" and turning:
            steps = frequencies(2 * turning, self.base, like)
        return torch.cat([steps[:turning], steps.new_zeros(pairs - turning)])

    def turn(self, x: Tensor, positions: Tensor) -> Tensor:
        return turned(x, positions, self.steps(x.shape[-1], x), interleaved=self.interleaved)

    def width(self, head_dim: int) -> None:
        even("PRoPE", head_dim)
