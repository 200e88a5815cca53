"""States of a noisy linear system carried from one time to another, and read by how well they arrive."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

FLOOR = 1e-6  # the least variance


@dataclass(frozen=True, eq=False)
class Tables:
    """What depends on the distance of tokens alone: decay, the key's variance, and the log weight before any residual.

    Shapes: [B|1, H|1, N, M], or [B|1, H|1, N, M, d] with a number for each complex feature.
    """

    decay: Tensor
    variance: Tensor
    prior: Tensor

    @property
    def by_feature(self) -> bool:
        """Whether every feature has numbers of its own."""
        return self.decay.dim() == 5

    def by_distance(self) -> Tables:
        """Tables of one row, the distances 0 to N - 1, written out to N rows and N columns, as views."""
        return Tables(*(_toeplitz(t[:, :, 0]) for t in (self.decay, self.variance, self.prior)))


def carried_variance(gaps: Tensor, decay: Tensor, process: Tensor | None, start: Tensor, end: Tensor) -> Tensor:
    """The variance of a state seen with variance `start`, `gaps` of time later, as it is seen there with `end` more.

    It is process (1 - e^{-2 decay gaps}) / (2 decay) + start e^{-2 decay gaps} + end, and process * gaps + start + end
    where nothing decays.

    Shapes: all broadcast; gaps and decay >= 0, the variances > 0.
    """
    fading = 2 * decay * gaps
    V = start * (-fading).exp() + end
    return V if process is None else V + process * gaps * _shrunk(fading)


def weights(
    q: Tensor,
    k: Tensor,
    tables: Tables,
    seen: Tensor,
    *,
    freedom: Tensor,
    sharpness: Tensor,
    robust: bool = True,
    product: bool = False,
) -> Tensor:
    """How much each key counts, by its precision on arrival and by its residual from the query.

    The residual is |q - decay k|^2 over the variance, summed over features and divided by `freedom` times their number;
    or, with `product`, its cross term alone. `robust` takes its logarithm, log(1 + residual). The first half of the
    features are real parts, the second half imaginary ones; all are turned back to time 0.

    Shapes: q [B, H, N, 2d]; k [B, H, M, 2d]; seen [B|1, 1, N, M]; freedom, sharpness [H, 1, 1]; result [B, H, N, M],
    or [B, H, N, M, d] by feature, of sum 1 over M, or 0 where nothing is seen.
    """
    d = q.shape[-1] // 2
    scale = freedom * d
    if tables.by_feature:
        q, k = q.unflatten(-1, (2, d)), k.unflatten(-1, (2, d))
        off = -2 * tables.decay * torch.einsum("bhncf,bhmcf->bhnmf", q, k)
        if not product:
            norms = q.square().sum(-2)[..., :, None, :] + tables.decay**2 * k.square().sum(-2)[..., None, :, :]
            off = (norms + off).clamp(min=0)  # it is a square, but for rounding
        off = ((off / tables.variance).sum(-1) / scale)[..., None]
        seen, sharpness = seen[..., None], sharpness[..., None]
    else:
        off = -2 * tables.decay * (q @ k.transpose(-1, -2))
        if not product:
            norms = q.square().sum(-1)[..., :, None] + tables.decay**2 * k.square().sum(-1)[..., None, :]
            off = (norms + off).clamp(min=0)
        off = off / (scale * tables.variance)
    logits = sharpness.square() * (tables.prior - (off.log1p() if robust else off))
    return _softmax(logits, seen, 3)


def estimates(weights: Tensor, v: Tensor, tables: Tables) -> Tensor:
    """The mean of the values that arrive, by their weights.

    Shapes: weights [B, H, N, M], or [B, H, N, M, d] by feature; v [B, H, M, 2d]; result [B, H, N, 2d].
    """
    arriving = weights * tables.decay
    if not tables.by_feature:
        return arriving @ v
    return torch.einsum("bhnmf,bhmcf->bhncf", arriving, v.unflatten(-1, (2, -1))).flatten(-2)


def turned(x: Tensor, omega: Tensor | None, times: Tensor) -> Tensor:
    """Complex features times e^{i omega t}; as they are where nothing turns.

    Shapes: x and result [B, H, N, 2d], real parts first; omega [H|1, d]; times [B|1, N].
    """
    if omega is None:
        return x
    angle = omega[:, None] * times[:, None, :, None]
    re, im = x.chunk(2, -1)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([re * cos - im * sin, re * sin + im * cos], -1)


def above(raw: Tensor, start: float) -> Tensor:
    """A number above FLOOR for each raw one, `start` exactly where that is 0; in at least float32."""
    wide = raw.to(torch.promote_types(raw.dtype, torch.float32))
    return FLOOR + (start - FLOOR) * F.softplus(wide) / math.log(2)


def _shrunk(x: Tensor) -> Tensor:
    """(1 - e^{-x}) / x for x >= 0, and its series where x is small."""
    small = x < 1e-6
    safe = torch.where(small, 1.0, x)
    return torch.where(small, 1 - x / 2, -torch.expm1(-safe) / safe)


def _softmax(scores: Tensor, seen: Tensor, axis: int) -> Tensor:
    """Softmax along an axis over the keys that are seen; zeros where none is."""
    scores = torch.where(seen, scores, -torch.inf)
    top = scores.detach().amax(axis, keepdim=True)
    powers = (scores - torch.where(top == -torch.inf, 0.0, top)).exp()
    total = powers.sum(axis, keepdim=True)
    return powers / torch.where(total == 0, 1.0, total)


def _toeplitz(line: Tensor) -> Tensor:
    """[1, H, N, ...], a number for each distance, to [1, H, N, N, ...] by row and column."""
    N = line.shape[2]
    both = torch.cat([line.flip(2), line[:, :, 1:]], 2)
    return both.unfold(2, N, 1).flip(2).movedim(-1, 3)
