"""From scores to weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from regard.edits.base import check_heads, setting
from regard.errors import ShapeError, Unsupported


class Normaliser:
    """Turns complete rows of scores into weights.

    `has_lse` says that its output is a function of plain softmax attention's output and log-sum-exp, so that any
    softmax engine serves it through `from_lse`.
    """

    has_lse: ClassVar[bool] = False

    def weights(self, scores: Tensor, seen: Tensor | None = None, *, h: Tensor | None = None) -> Tensor:
        """The weights of complete rows; zeros where nothing is seen.

        Shapes: scores [B, H, n, m]; `seen` boolean, broadcasting to it (None: all); `h` the head indices [H] of the
        scores' head axis (None: all heads in order). At least float32 comes back, float64 stays.
        """
        raise NotImplementedError

    def from_lse(self, out: Tensor, lse: Tensor, h: Tensor | None = None) -> Tensor:
        """This normaliser's output from plain softmax attention's [B, H, N, E] and log-sum-exp [B, H, N].

        Raises: Unsupported where the output isn't a function of them.
        """
        raise Unsupported(f"{type(self).__name__} is not a function of the log-sum-exp; use engine='rows'.")

    def check(self, H: int) -> None:
        """Raise ShapeError where this normaliser does not fit H query heads."""

    @property
    def needs_grad(self) -> bool:
        """Whether a tensor of this normaliser wants a gradient."""
        return any(isinstance(value, Tensor) and value.requires_grad for value in vars(self).values())


@dataclass(frozen=True)
class Softmax(Normaliser):
    """`exp(s) / sum exp(s)` over the keys that are seen."""

    has_lse: ClassVar[bool] = True

    def weights(self, scores: Tensor, seen: Tensor | None = None, *, h: Tensor | None = None) -> Tensor:
        scores = _wide(scores)
        if not scores.shape[-1]:
            return scores
        found = _softmax_seen(scores, seen)
        if found[..., 0].isnan().any():  # a bias of -inf may hide a whole row that the mask shows
            alive = scores != -torch.inf
            found = _softmax_seen(scores, alive if seen is None else alive & seen)
        return found

    def from_lse(self, out: Tensor, lse: Tensor, h: Tensor | None = None) -> Tensor:
        return out


class _WithSink(Normaliser):
    """Softmax with one more logit per head in the denominator, whose value is zero."""

    has_lse: ClassVar[bool] = True

    def sink(self, like: Tensor, h: Tensor | None) -> Tensor:
        """The extra logit, broadcasting to [B, H, n]."""
        raise NotImplementedError

    def weights(self, scores: Tensor, seen: Tensor | None = None, *, h: Tensor | None = None) -> Tensor:
        scores = _wide(scores)
        if seen is not None:
            scores = scores.masked_fill(~seen, -torch.inf)
        sink = self.sink(scores, h).unsqueeze(-1).expand(*scores.shape[:-1], 1)
        return torch.cat([scores, sink], -1).softmax(-1)[..., :-1]

    def from_lse(self, out: Tensor, lse: Tensor, h: Tensor | None = None) -> Tensor:
        kept = torch.sigmoid(lse - self.sink(lse, h))
        return (out * kept.unsqueeze(-1)).to(out.dtype)


@dataclass(frozen=True, eq=False)
class SoftmaxWithSinks(_WithSink):
    """Softmax with a learned sink logit per query head: `exp(s) / (exp(sink) + sum exp(s))`.

    Shapes: `logits` floats [H]; -inf is no sink.
    Raises: ValueError where they are not floats or hold nan or +inf; ShapeError where they are not [H].
    Source: "gpt-oss-120b & gpt-oss-20b Model Card", 2508.10925, section 2.
    """

    logits: Tensor

    def __post_init__(self) -> None:
        if not isinstance(self.logits, Tensor) or not self.logits.dtype.is_floating_point:
            shown = self.logits.dtype if isinstance(self.logits, Tensor) else type(self.logits).__name__
            raise ValueError(f"SoftmaxWithSinks.logits must be a float tensor [H]; got {shown}.")
        if self.logits.dim() != 1:
            raise ShapeError(f"SoftmaxWithSinks.logits must be [H], one per query head; got {list(self.logits.shape)}.")
        if not (self.logits < torch.inf).all():
            raise ValueError("SoftmaxWithSinks.logits must be finite or -inf; got nan or inf in it.")

    def sink(self, like: Tensor, h: Tensor | None) -> Tensor:
        logits = self.logits.to(like.device, like.dtype).clamp(min=torch.finfo(like.dtype).min)
        return (logits if h is None else logits[h.reshape(-1)]).unsqueeze(-1)

    def check(self, H: int) -> None:
        check_heads(self.logits, "SoftmaxWithSinks.logits", H)

    def __repr__(self) -> str:
        return f"SoftmaxWithSinks([{len(self.logits)}])"


@dataclass(frozen=True)
class SoftmaxOffByOne(_WithSink):
    """`exp(s) / (1 + sum exp(s))`: a head may look at nothing.

    Source: "Attention Is Off By One" (E. Miller, 2023).
    """

    def sink(self, like: Tensor, h: Tensor | None) -> Tensor:
        return like.new_zeros(())


@dataclass(frozen=True, eq=False)
class Sigmoid(Normaliser):
    """`sigmoid(s + bias)` for every key on its own; rows need not sum to 1.

    Shapes: `bias` a number or floats [H]; -log M keeps the sum of a row near 1 at the start of training.
    Raises: ValueError where the bias is not finite; ShapeError where it is not [H].
    Source: "Theory, Analysis, and Best Practices for Sigmoid Self-Attention", 2409.04431, section 2.
    """

    bias: float | Tensor = 0.0

    def __post_init__(self) -> None:
        setting(self.bias, "Sigmoid.bias")

    def weights(self, scores: Tensor, seen: Tensor | None = None, *, h: Tensor | None = None) -> Tensor:
        scores, bias = _wide(scores), self.bias
        if isinstance(bias, Tensor):
            bias = (bias if h is None else bias[h.reshape(-1)]).to(scores.device, scores.dtype).view(-1, 1, 1)
        scores = scores + bias
        return torch.sigmoid(scores if seen is None else scores.masked_fill(~seen, -torch.inf))

    def check(self, H: int) -> None:
        check_heads(self.bias, "Sigmoid.bias", H)


def _wide(scores: Tensor) -> Tensor:
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _softmax_seen(scores: Tensor, seen: Tensor | None) -> Tensor:
    if seen is None:
        return scores.softmax(-1)
    if seen.shape[-1] != scores.shape[-1]:
        seen = seen.expand(*seen.shape[:-1], scores.shape[-1])
    # Dead rows are filled with zeros, not -inf, so that neither the weights nor their gradients meet a nan.
    dead = ~seen.any(-1, keepdim=True)
    if not dead.any():
        return torch.where(seen, scores, -torch.inf).softmax(-1)
    fill = torch.where(dead, 0.0, -torch.inf).to(scores.dtype)
    return torch.where(seen, scores, fill).softmax(-1).masked_fill(dead, 0.0)


softmax = Softmax()
