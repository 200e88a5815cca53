"""MD-TPE: averages that fade along each axis of a grid, which tell tokens where they are."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError, Unsupported
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import start
from regard.mechanisms.slot import divide
from regard.ops import Memory, recur


class ToeplitzEncoding(Layer):
    """Each token's sum of all tokens, weighted by q . k and by a decay for each head that grows with the distance;
    normed and mapped. It stands before the blocks of a stack, whose input it is added to.

    q and k are learned and the same for all tokens, so that the weights are a Toeplitz matrix. With `grid` the tokens,
    row by row, are summed along each axis alone, with weights of its own, and the sums are added.

    Shapes: tokens [B, N, dim] to [B, N, dim], N the product of `grid`; a state of dim numbers.
    Raises: ShapeError where `dim` is not a multiple of `heads`, or N is not the grid's; ValueError for sizes below 1;
    Unsupported for padding, packed documents and steps in a grid.
    Source: "You Only Scan Once", 2405.21022, section 3; decays and initial values as in its authors' code.
    Differs from the paper: without an order one pass takes both sides and counts a token itself once.
    """

    spec: ClassVar[Spec] = Spec(
        id="md_tpe",
        slot="layer",
        source=Source(
            "You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet",
            "2405.21022",
            "section 3",
            authors="Qin, Zhen and Mao, Yuxin and Shen, Xuyang and Li, Dong and Zhang, Jing and Dai, Yuchao and "
            "Zhong, Yiran",
        ),
        what="Sums of tokens with learned weights that fade with the distance along each axis.",
        formula="y_t = sum_j q . k sigmoid(r)^|t - j| x_j  for each head and axis   (causal: j <= t)\n"
        "out = rms(sum over axes of y) W_o",
        gqa=False,
        cost=Cost(time=1, state=0),
        limits=(Limit("toeplitz"),),
        entry="lightnet",
    )

    def __init__(self, dim: int, heads: int, *, grid: tuple[int, ...] | None = None, eps: float = 1e-6) -> None:
        super().__init__()
        width = divide("ToeplitzEncoding", dim, heads)
        self.dim, self.heads, self.eps = dim, heads, eps
        self.grid = None if grid is None else tuple(grid)
        if self.grid is not None and (not self.grid or min(self.grid) < 1):
            raise ValueError(f"ToeplitzEncoding.grid must be sizes of at least 1; got {grid}. Type grid=(8, 8).")
        axes = 1 if self.grid is None else len(self.grid)
        self.q, self.k = (nn.Parameter(torch.randn(axes, heads, width)) for _ in range(2))
        self.rate = nn.Parameter(torch.randn(axes, heads))
        self.gain = nn.Parameter(torch.ones(dim))
        self.out = nn.Linear(dim, dim, bias=False)
        start(self)

    def attend(self, call: Call) -> Tensor:
        if self.grid is None:
            return self.advance(None, call)[0]
        if call.padded or call.documents is not None:
            raise Unsupported("ToeplitzEncoding with a grid reads whole images. Leave padding and documents out.")
        B, N, C = call.tokens.shape
        if math.prod(self.grid) != N:
            raise ShapeError(f"ToeplitzEncoding.grid={self.grid} has {math.prod(self.grid)} places; got {N} tokens.")
        found = torch.zeros_like(call.tokens)
        for axis in range(len(self.grid)):
            lines = call.tokens.unflatten(1, self.grid).movedim(axis + 1, -2)
            summed, _ = self._along(axis, lines.reshape(-1, self.grid[axis], C), causal=call.causal)
            found = found + summed.view(lines.shape).movedim(-2, axis + 1).reshape(B, N, C)
        return self._out(found)

    def begin(self, batch: int) -> Memory | None:
        if self.grid is not None:
            raise Unsupported(
                "ToeplitzEncoding with a grid reads whole images, not step by step. Call it on all tokens."
            )
        return None

    def advance(self, inner: Memory | None, call: Call) -> tuple[Tensor, Memory]:
        found, after = self._along(
            0, call.tokens, causal=call.causal, state=inner, real=call.real, documents=call.documents
        )
        return self._out(found), after

    def weights(self, axis: int, length: int) -> Tensor:
        """The weight of each distance from 0 up along one axis, [heads, length]."""
        far = torch.arange(length, dtype=self.rate.dtype, device=self.rate.device)
        amount = (self.q[axis] * self.k[axis]).sum(-1, keepdim=True)
        return amount * (F.logsigmoid(self.rate[axis])[:, None] * far).exp()

    def _along(
        self,
        axis: int,
        x: Tensor,
        *,
        causal: bool,
        state: Memory | None = None,
        real: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> tuple[Tensor, Memory]:
        values = x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        wide = torch.promote_types(x.dtype, torch.float32)
        one = values.new_ones(*values.shape[:3], 1, dtype=wide)
        amount = (self.q[axis] * self.k[axis]).to(wide).sum(-1)[:, None, None]
        out, after = recur(
            one * amount,
            one,
            values.to(wide),
            decay=F.logsigmoid(self.rate[axis].to(wide)),
            state=state,
            causal=causal,
            real=real,
            documents=documents,
            keep=True,
        )
        return out.transpose(1, 2).flatten(2), after

    def _out(self, x: Tensor) -> Tensor:
        normed = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps) * self.gain
        return self.out(normed.to(self.out.weight.dtype))
