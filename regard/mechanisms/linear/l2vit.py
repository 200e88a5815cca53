"""L2ViT: linear attention with a bounded denominator, and the convolutions and windows that it works beside."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.slot import divide
from regard.ops import Memory, attend, recur


class LinearGlobalAttention(Mixer):
    """Attention with weights relu(q) relu(k), whose sum is held above a bound, times a learned temperature per head.

    Where a row's sum is below `min_denominator` its weights are not normalised, which is meant: the bound of 100 is
    for images of many tokens with activations near 1, and a few tokens come out as a scaled sum.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E]. Kept per head in decoding: D x (E + 1).
    Raises: ValueError where `min_denominator` is not above 0.
    Source: "The Linear Attention Resurrection in Vision Transformer", 2501.16182, section 3.
    Differs from the paper: the causal form is not in it; its local convolutions are `LocalConcentration`, and a block
    of both `LinearGlobalBlock`.
    """

    spec: ClassVar[Spec] = Spec(
        id="l2vit",
        slot="mixer",
        source=Source(
            "The Linear Attention Resurrection in Vision Transformer",
            "2501.16182",
            "section 3",
            authors="Zheng, Chuanyang",
        ),
        what="Linear attention over rectified queries and keys whose denominator is held above a bound.",
        formula="out_i = T_h (relu(q_i) sum_j relu(k_j) v_j^T) / max(relu(q_i) sum_j relu(k_j), 100)\n"
        "T_h learned, at first 1 / sqrt(D)",
        cross=True,
        cost=Cost(time=1, state=0),
        limits=(Limit("rectified_products"), Limit("rectified_products", min_denominator=1e-6)),
        variants=({"min_denominator": 0.5},),
    )

    def __init__(self, heads: int, head_dim: int, *, min_denominator: float = 100.0) -> None:
        super().__init__()
        self.min_denominator = min_denominator
        if not min_denominator > 0:
            raise ValueError(f"LinearGlobalAttention.min_denominator must be above 0; got {min_denominator}.")
        self.temperature = nn.Parameter(torch.full((heads, 1, 1), head_dim**-0.5))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        q, k, values = _ready(q, k, v)
        if not call.causal and call.documents is None:
            if call.real is not None:
                k, values = (x.masked_fill(~call.real[:, None, :, None], 0.0) for x in (k, values))
            kept = k.transpose(-1, -2) @ values
            sums = (q.unflatten(1, (k.shape[1], -1)) @ kept.unsqueeze(2)).flatten(1, 2)
        else:
            sums = recur(q, k, values, causal=call.causal, real=call.real, documents=call.documents)
        return self._divided(sums).to(v.dtype)

    def init_state(self, batch: int, held: Held) -> Memory | None:
        return None

    def step(self, state: Memory | None, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Memory]:
        sums, after = recur(*_ready(q, k, v), real=call.real, state=state, keep=True)
        return self._divided(sums).to(v.dtype), after

    def weights(self, q: Tensor, k: Tensor) -> Tensor:
        """The weights [B, H, N, M] of q [B, H, N, D] and k [B, H, M, D] without an order; rows sum to T or less."""
        made = q.relu() @ k.relu().transpose(-1, -2)
        return self.temperature * made / made.sum(-1, keepdim=True).clamp(min=self.min_denominator)

    def _divided(self, sums: Tensor) -> Tensor:
        return self.temperature * sums[..., :-1] / sums[..., -1:].clamp(min=self.min_denominator)


class LocalConcentration(nn.Module):
    """Two depthwise convolutions with GELU and batch normalisation between them, which gather what is near.

    Shapes: tokens and result [B, h w, dim] for `grid` (h, w).
    Raises: ValueError where `kernel` is even; ShapeError where the tokens are no such grid.
    Source: "The Linear Attention Resurrection in Vision Transformer", 2501.16182, section 3.
    """

    def __init__(self, dim: int, *, kernel: int = 7) -> None:
        super().__init__()
        self.first, self.second = _depthwise(dim, kernel), _depthwise(dim, kernel)
        self.norm = nn.BatchNorm2d(dim)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The convolved tokens, without what came in."""
        return _flat(self.second(self.norm(F.gelu(self.first(_image(tokens, grid))))))


class LinearGlobalBlock(nn.Module):
    """A block of convolved positions, linear global attention, local concentration and a feed-forward part.

    Each part is added to what came in; `concentrate=False` leaves the local concentration out.

    Shapes: tokens and result [B, h w, dim] for `grid` (h, w).
    Raises: ShapeError where the tokens are no such grid, or `dim` is not a multiple of `heads`.
    Source: "The Linear Attention Resurrection in Vision Transformer", 2501.16182, section 3.
    """

    def __init__(
        self, dim: int, heads: int, *, concentrate: bool = True, min_denominator: float = 100.0, ratio: int = 4
    ) -> None:
        super().__init__()
        width = divide("LinearGlobalBlock", dim, heads)
        self.heads = heads
        self.position = _depthwise(dim, 3)
        self.norm, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.attention = LinearGlobalAttention(heads, width, min_denominator=min_denominator)
        self.local_norm = nn.LayerNorm(dim) if concentrate else None
        self.local = LocalConcentration(dim) if concentrate else None
        self.feed = _feed(dim, ratio)
        start(self)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The tokens after the block."""
        x = tokens + _flat(self.position(_image(tokens, grid)))
        q, k, v = (split(part, self.heads) for part in self.qkv(self.norm(x)).chunk(3, -1))
        x = x + self.out(join(self.attention(q, k, v, Call(tokens=x, memory=x))))
        if self.local is not None and self.local_norm is not None:
            x = x + self.local(self.local_norm(x), grid)
        return x + self.feed(x)


class LocalWindowBlock(nn.Module):
    """A block of convolved positions, softmax attention inside windows, positions again and a feed-forward part.

    Grids that are no multiple of `window` are filled up with zero tokens to the right and below, which are looked at
    as others are.

    Shapes: tokens and result [B, h w, dim] for `grid` (h, w).
    Raises: ShapeError where the tokens are no such grid, or `dim` is not a multiple of `heads`; ValueError where
    `window` is below 1.
    Source: "The Linear Attention Resurrection in Vision Transformer", 2501.16182, section 3.
    """

    def __init__(self, dim: int, heads: int, *, window: int = 7, ratio: int = 4) -> None:
        super().__init__()
        divide("LocalWindowBlock", dim, heads)
        if window < 1:
            raise ValueError(f"LocalWindowBlock.window must be at least 1; got {window}.")
        self.heads, self.window = heads, window
        self.position, self.again = _depthwise(dim, 3), _depthwise(dim, 3)
        self.norm, self.qkv, self.out = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.feed = _feed(dim, ratio)
        start(self)

    def forward(self, tokens: Tensor, grid: tuple[int, int]) -> Tensor:
        """The tokens after the block."""
        x = tokens + _flat(self.position(_image(tokens, grid)))
        x = x + self._windows(self.norm(x), grid)
        x = x + _flat(self.again(_image(x, grid)))
        return x + self.feed(x)

    def _windows(self, x: Tensor, grid: tuple[int, int]) -> Tensor:
        (h, w), s, B = grid, self.window, x.shape[0]
        image = F.pad(x.unflatten(1, grid), (0, 0, 0, -w % s, 0, -h % s))
        rows, columns = image.shape[1] // s, image.shape[2] // s
        cut = image.unflatten(2, (columns, s)).unflatten(1, (rows, s)).transpose(2, 3).flatten(0, 2).flatten(1, 2)
        q, k, v = (split(part, self.heads) for part in self.qkv(cut).chunk(3, -1))
        out = self.out(join(attend(q, k, v))).unflatten(1, (s, s)).unflatten(0, (B, rows, columns))
        return out.transpose(2, 3).flatten(3, 4).flatten(1, 2)[:, :h, :w].flatten(1, 2)


def concentration(weights: Tensor, *, top: int = 1) -> tuple[Tensor, Tensor]:
    """How peaked a map is: its rows' mean entropy in nats, and the mean share of their `top` largest weights.

    Shapes: weights [..., N, M], not negative, normalised here to rows that sum to 1; both results [...].
    """
    shares = weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return torch.special.entr(shares).sum(-1).mean(-1), shares.topk(top, -1).values.sum(-1).mean(-1)


def _ready(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rectified queries and keys, and values with a 1 behind them, so that the denominator comes with the sums."""
    wide = torch.promote_types(v.dtype, torch.float32)
    return q.to(wide).relu(), k.to(wide).relu(), torch.cat([v.to(wide), torch.ones_like(v[..., :1], dtype=wide)], -1)


def _depthwise(dim: int, kernel: int) -> nn.Conv2d:
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"LocalConcentration.kernel must be odd and at least 1; got {kernel}.")
    made = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
    nn.init.trunc_normal_(made.weight, std=0.02)
    nn.init.zeros_(made.bias)  # type: ignore[arg-type]
    return made


def _feed(dim: int, ratio: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, ratio * dim), nn.GELU(), nn.Linear(ratio * dim, dim))


def _image(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    if tokens.shape[1] != grid[0] * grid[1]:
        raise ShapeError(
            f"{tokens.shape[1]} tokens are no grid of {grid[0]} x {grid[1]}. Type the grid's own height and width."
        )
    return tokens.transpose(1, 2).unflatten(2, grid)


def _flat(image: Tensor) -> Tensor:
    return image.flatten(2).transpose(1, 2)
