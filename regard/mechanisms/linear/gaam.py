"""Gaussian adaptive attention: weights from how near a number is to the mean of its own kind."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.slot import divide

_LEAST = 1e-8  # added to the variance, which may be 0


class GaussianAdaptiveAttention(Layer):
    """Each feature of a token is weighed by its distance from that feature's mean over the tokens.

    The weights are a product of `gaussians` bells around the mean, moved by `shift` and of width exp(`log_width`) in
    standard deviations, as shares that sum to 1 over the tokens; each of `heads` groups of features has its own.
    `spread` is the width at the start: "random" as in the released code, or "one".

    Shapes: tokens [B, N, dim] to [B, N, dim], the tokens times their weights; shift and log_width [heads, gaussians].
    Raises: ShapeError where `dim` is not a multiple of `heads`; ValueError for a setting out of range.
    Source: "Gaussian Adaptive Attention is All You Need", 2401.11143, section 3; its released code.
    Differs from the paper: in the logarithm, which keeps the weights normalised where densities underflow; heads are
    groups of features, not stretches of the tokens; `AdaptiveGaussians` is the form over any axis, as over features.
    """

    spec: ClassVar[Spec] = Spec(
        id="gaam",
        slot="layer",
        source=Source(
            "Gaussian Adaptive Attention is All You Need: Robust Contextual Representations Across Multiple Modalities",
            "2401.11143",
            "section 3",
            authors="Ioannides, Georgios and Chadha, Aman and Elkins, Aaron",
        ),
        what="Tokens are weighed, feature by feature, by a learned product of Gaussians around the mean of the tokens.",
        formula="a_j = softmax over tokens(-sum_k (x_j - m - d_k)^2 / (2 c_k^2 s^2)),  out_j = a_j x_j\n"
        "m, s^2: mean and variance over the tokens, for each feature",
        causal=False,
        decode=False,
        gqa=False,
        cost=Cost(time=1, state=0),
        limits=(Limit("one_gaussian"), Limit("one_gaussian", gaussians=3, spread="one")),
        variants=({"gaussians": 1, "spread": "one"},),
    )

    def __init__(self, dim: int, heads: int, *, gaussians: int = 2, spread: str = "random") -> None:
        super().__init__()
        self.dim, self.heads, self.gaussians, self.spread = dim, heads, gaussians, spread
        divide("GaussianAdaptiveAttention", dim, heads)
        self.at_least(gaussians=1)
        self.one_of("spread", ("random", "one"))
        self.shift, self.log_width = _bells(heads, gaussians, spread)

    def attend(self, call: Call) -> Tensor:
        x, weights = self._weighed(call)
        return (x * weights).to(call.tokens.dtype)

    def weights(self, tokens: Tensor) -> Tensor:
        """The weights [B, N, dim] of tokens [B, N, dim] without padding; they sum to 1 over the tokens."""
        return self._weighed(Call(tokens=tokens, memory=tokens))[1]

    def _weighed(self, call: Call) -> tuple[Tensor, Tensor]:
        B, _, C = call.tokens.shape
        group, count = _groups(call)
        real = (group < count - 1)[..., None].expand(B, -1, -1)
        x = call.tokens.to(torch.promote_types(call.tokens.dtype, torch.float32)).masked_fill(~real, 0.0)
        index = group[..., None].expand(B, -1, C)

        def total(of: Tensor) -> Tensor:
            return of.new_zeros(B, count, C).scatter_add(1, index, of)

        def each(of: Tensor) -> Tensor:
            return of.gather(1, index)

        size = total(real.expand_as(x).to(x.dtype))
        off = (x - each(total(x) / size.clamp(min=1.0))).masked_fill(~real, 0.0)
        variance = each(total(off.square()) / (size - 1).clamp(min=1.0)) + _LEAST
        shift, width = (p.to(x.dtype).repeat_interleave(C // self.heads, 0) for p in (self.shift, self.log_width.exp()))
        logs = _logs(off, variance, shift, width).masked_fill(~real, -torch.inf)
        with torch.no_grad():  # the largest of each group, which cancels
            top = logs.new_full((B, count, C), -torch.inf).scatter_reduce(1, index, logs, "amax")
        powers = (logs - each(top).masked_fill(~real, 0.0)).exp()
        return x, powers / each(total(powers)).masked_fill(~real, 1.0)


class AdaptiveGaussians(nn.Module):
    """A tensor times its Gaussian weights along one axis, in `heads` stretches of the axis, each with its own bells.

    Over features it mixes no tokens; `residual` adds what came in, as the paper's stacks do. Elements that are not
    `real` have no part in it and pass as they are.

    Shapes: x of any shape whose `axis` has `size` entries; real boolean, broadcasting to x; result as x.
    Raises: ValueError where heads, gaussians or `spread` are out of range; ShapeError for another size of the axis.
    Source: "Gaussian Adaptive Attention is All You Need", 2401.11143, section 3; its released code.
    """

    def __init__(
        self, size: int, heads: int = 1, *, axis: int = -1, gaussians: int = 2, spread: str = "random",
        residual: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if not 1 <= heads <= size:
            raise ValueError(f"AdaptiveGaussians.heads must be 1 to {size}, the size of the axis; got {heads}.")
        if gaussians < 1:
            raise ValueError(f"AdaptiveGaussians.gaussians must be at least 1; got {gaussians}.")
        if spread not in ("random", "one"):
            raise ValueError(f"AdaptiveGaussians.spread must be one of 'random', 'one'; got {spread!r}.")
        self.size, self.heads, self.axis, self.residual = size, heads, axis, residual
        self.shift, self.log_width = _bells(heads, gaussians, spread)

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """The weighed tensor."""
        out = x * self.weights(x, real).to(x.dtype)
        out = out + x if self.residual else out
        return out if real is None else torch.where(real, out, x)

    def weights(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """Weights of the shape of x, which sum to 1 over each stretch; 0 where not real."""
        if not -x.dim() <= self.axis < x.dim() or x.shape[self.axis] != self.size:
            raise ShapeError(
                f"AdaptiveGaussians takes {self.size} entries along axis {self.axis}; got {list(x.shape)}."
            )
        seen = None if real is None else real.expand_as(x).movedim(self.axis, -1)
        each, rest = x.movedim(self.axis, -1), self.size // self.heads
        sizes = [rest] * (self.heads - 1) + [self.size - rest * (self.heads - 1)]
        found, first = [], 0
        for head, size in enumerate(sizes):
            here = slice(first, first + size)
            found.append(
                gaussian_weights(
                    each[..., here],
                    self.shift[head],
                    self.log_width[head].exp(),
                    None if seen is None else seen[..., here],
                )
            )
            first += size
        return torch.cat(found, -1).movedim(-1, self.axis)


def gaussian_weights(x: Tensor, shift: Tensor, width: Tensor, real: Tensor | None = None) -> Tensor:
    """Shares of the product of Gaussians around the shifted mean, along the last axis, in at least float32.

    Shapes: x and result [..., L]; shift and width [K], widths in standard deviations; real boolean as x.
    Raises: ValueError where a width is not above 0.
    """
    if bool((width <= 0).any()):
        raise ValueError(f"gaussian_weights takes widths above 0; got {width.tolist()}.")
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    shown = torch.ones_like(x, dtype=torch.bool) if real is None else real
    x, size = x.masked_fill(~shown, 0.0), shown.sum(-1, keepdim=True)
    off = (x - x.sum(-1, keepdim=True) / size.clamp(min=1)).masked_fill(~shown, 0.0)
    variance = off.square().sum(-1, keepdim=True) / (size - 1).clamp(min=1) + _LEAST
    logs = _logs(off, variance, shift, width)
    if real is not None:
        logs = logs.masked_fill(~real, torch.finfo(logs.dtype).min)
    return logs.softmax(-1).masked_fill(~shown, 0.0)


def importance(weights: Tensor) -> Tensor:
    """The importance factor of each feature: its mean weight over all else, from 0 for the least to 1 for the most.

    Shapes: weights [..., C]; result [C].
    """
    mean = weights.flatten(0, -2).mean(0)
    return (mean - mean.min()) / (mean.max() - mean.min()).clamp(min=torch.finfo(mean.dtype).tiny)


def _bells(heads: int, gaussians: int, spread: str) -> tuple[nn.Parameter, nn.Parameter]:
    """Shifts of 0 and logarithms of widths, [heads, gaussians] both."""
    width = torch.randn(heads, gaussians) if spread == "random" else torch.zeros(heads, gaussians)
    return nn.Parameter(torch.zeros(heads, gaussians)), nn.Parameter(width)


def _logs(off: Tensor, variance: Tensor, shift: Tensor, width: Tensor) -> Tensor:
    """Logarithms of the product, without what is the same for all; shift and width [K] or [C, K]."""
    distances = (off[..., None] - shift).square() / (2 * width.square())
    return -distances.sum(-1) / variance


def _groups(call: Call) -> tuple[Tensor, int]:
    """For each token the number [B|1, N] of its document, padding being the last one; and how many there are."""
    N = call.tokens.shape[1]
    number, count = torch.zeros(1, N, dtype=torch.int64, device=call.tokens.device), 1
    if call.documents is not None:
        number = torch.nn.functional.pad((call.documents.diff(dim=1) != 0).cumsum(1), (1, 0))
        count = int(number.max()) + 1
    if call.q_real is not None:
        number = torch.where(call.q_real, number, count)
    return number, count + 1
