"""MD-LRPE: queries and keys turn by where they are on a grid."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms.position import Position


class MDLRPE(Position):
    """A head's features are shared out to the axes of a grid, and each share turns with one coordinate, so that scores
    know the difference of places along every axis and nothing else.

    `grid` are its sizes, such as (8, 8) for rows and columns, tokens row by row; None: one axis, a token's position.
    `turning` is "rotary", pairs across the halves of each share; "half", which turns the first half of the features
    and leaves the rest; or "cosine", which makes two features of each, so that a product of features goes with the
    cosine of its angle.

    Shapes: queries [B, H, N, D], keys [B, G, M, D]; as they came, or twice as wide where "cosine".
    Raises: ShapeError where D can't be shared out; ValueError for a setting out of range.
    Source: "You Only Scan Once", 2405.21022, section 3.
    Differs from the paper: angles of "cosine" go from 1 to 1 / base.
    """

    spec: ClassVar[Spec] = Spec(
        id="md_lrpe",
        slot="position",
        source=Source(
            "You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet",
            "2405.21022",
            "section 3",
            authors="Qin, Zhen and Mao, Yuxin and Shen, Xuyang and Li, Dong and Zhang, Jing and Dai, Yuchao and "
            "Zhong, Yiran",
        ),
        what="Each axis of a grid turns its share of the features.",
        formula="q'_p = R(p) q_p,  k'_p = R(p) k_p,  R turns pair m of axis a's D / A features by\n"
        "p_a base^(-2 m A / D)",
        cross=True,
        cost=Cost(time=1, state=0),
        limits=(Limit("rope"), Limit("rope", grid=(100,)), Limit("turned_on_a_grid", grid=(3, 4))),
        variants=({"grid": (3, 4)}, {"grid": (3, 4), "turning": "half"}, {"turning": "cosine"}),
        entry="lightnet",
    )

    def __init__(self, *, grid: tuple[int, ...] | None = None, turning: str = "rotary", base: float = 10000.0) -> None:
        super().__init__()
        self.grid, self.turning, self.base = None if grid is None else tuple(grid), turning, base
        self.one_of("turning", ("rotary", "half", "cosine"))
        self.at_least(base=1)
        if self.grid is not None and (not self.grid or min(self.grid) < 1):
            raise ValueError(f"MDLRPE.grid must be sizes of at least 1; got {grid}. Type grid=(8, 8).")
        self.axes = 1 if self.grid is None else len(self.grid)

    def turn(self, x: Tensor, positions: Tensor) -> Tensor:
        wide = torch.promote_types(x.dtype, torch.float32)
        places = positions[..., None]
        if self.grid is not None:  # the first axis goes on where a sequence is longer than the grid
            sizes = [math.prod(self.grid[axis + 1 :]) for axis in range(self.axes)]
            rest = [positions // size % side for size, side in zip(sizes[1:], self.grid[1:], strict=True)]
            places = torch.stack([positions // sizes[0], *rest], -1)
        count = x.shape[-1] // 2 if self.turning == "half" else x.shape[-1]
        share = count // self.axes
        pairs = share if self.turning == "cosine" else share // 2
        steps = self.base ** -(torch.arange(pairs, dtype=wide, device=x.device) / pairs)
        angles = places[:, None, :, :, None].to(wide) * steps  # [B|1, 1, N, axes, pairs]
        cos, sin = angles.cos(), angles.sin()
        own = x[..., :count].to(wide).unflatten(-1, (self.axes, -1))
        if self.turning == "cosine":
            made = torch.cat([own * cos, own * sin], -1)
        else:
            a, b = own.chunk(2, -1)
            made = torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
        return torch.cat([made.flatten(-2).to(x.dtype), x[..., count:]], -1)

    def width(self, head_dim: int) -> None:
        unit = {"rotary": 2, "half": 4, "cosine": 1}[self.turning] * self.axes
        if head_dim % unit or not head_dim:
            raise ShapeError(
                f"MDLRPE shares features out to {self.axes} axes in lots of {unit // self.axes}, and heads have "
                f"{head_dim}. Type another dim or heads, such that dim / heads is a multiple of {unit}."
            )
