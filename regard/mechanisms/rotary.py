"""Turning pairs of features by angles that grow with the position: what the rotary positions share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from regard.errors import ShapeError


def frequencies(width: int, base: float, like: Tensor) -> Tensor:
    """RoPE's angles per token, base ** (-2m / width), fastest first.

    Shapes: [width / 2], on the device of `like`, in at least float32.
    """
    wide = torch.promote_types(like.dtype, torch.float32)
    return 1.0 / base ** (torch.arange(0, width, 2, device=like.device).to(wide) / width)


def turned(x: Tensor, positions: Tensor, steps: Tensor, *, interleaved: bool = False, scale: float = 1.0) -> Tensor:
    """Each pair of features turned by its position times its step, and stretched by `scale`.

    Pair m is features m and m + D / 2, or 2m and 2m + 1 where `interleaved`.

    Shapes: x and result [B, H, N, D]; positions [B|1, N]; steps [D / 2].
    """
    wide = torch.promote_types(x.dtype, torch.float32)
    angles = positions[:, None, :, None].to(wide) * steps.to(wide)
    cos, sin = angles.cos() * scale, angles.sin() * scale
    x_wide = x.to(wide)
    a, b = (x_wide[..., ::2], x_wide[..., 1::2]) if interleaved else x_wide.chunk(2, -1)
    pair = (a * cos - b * sin, b * cos + a * sin)
    both = torch.stack(pair, -1).flatten(-2) if interleaved else torch.cat(pair, -1)
    return both.to(x.dtype)


def even(name: str, width: int) -> None:
    """Raise ShapeError where features can't be paired."""
    if width % 2 or width < 2:
        raise ShapeError(
            f"{name} turns pairs of features, so heads need an even width; got {width}. "
            f"Type another dim or heads, such that dim / heads is {width + width % 2 or 2}."
        )


def ntk(width: int, base: float, factor: float) -> float:
    """The base that slows the slowest pair by `factor` and leaves the fastest as it is (NTK-aware scaling)."""
    return base if width <= 2 else base * factor ** (width / (width - 2))


def yarn(steps: Tensor, base: float, factor: float, original: int, fast: float, slow: float) -> Tensor:
    """YaRN's steps: pairs with more than `fast` turns in `original` tokens keep theirs, those with fewer than `slow`
    are slowed by `factor`, and between them the two are mixed along a straight line over the pairs.

    Shapes: steps and result [width / 2].
    """
    width = 2 * len(steps)

    def pair(turns: float) -> float:
        return width * math.log(original / (turns * 2 * math.pi)) / (2 * math.log(base))

    first, last = max(math.floor(pair(fast)), 0), min(math.ceil(pair(slow)), width - 1)
    along = torch.arange(len(steps), device=steps.device).to(steps.dtype) - first
    mix = (along / (last - first or 1e-3)).clamp(0, 1)
    return steps / factor * mix + steps * (1 - mix)


def llama3(steps: Tensor, factor: float, original: int, low: float, high: float) -> Tensor:
    """Llama 3.1's steps: pairs with more than `high` turns in `original` tokens keep theirs, those with fewer than
    `low` are slowed by `factor`, and between them the two are mixed by the number of turns.

    Shapes: steps and result [width / 2].
    """
    turns = original * steps / (2 * math.pi)
    mix = ((turns - low) / (high - low)).clamp(0, 1)
    return steps / factor * (1 - mix) + steps * mix
