"""Partial attention that can be merged: the output over some keys and the log-sum-exp of their scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard.errors import ShapeError


@dataclass(frozen=True)
class State:
    """Attention over a set of keys.

    Shapes: out [B, H, N, E]; lse [B, H, N], the log of the sum of exponentiated scores, -inf where no key was seen
    (and out is 0 there).
    """

    out: Tensor
    lse: Tensor


def merge(a: State, b: State) -> State:
    """Attention over the union of two disjoint sets of keys; associative, commutative, and safe where a set is empty.

    Shapes: both states alike. Raises: ShapeError where they differ.
    Source: Self-attention Does Not Need O(n^2) Memory, 2112.05682.
    """
    if a.out.shape != b.out.shape or a.lse.shape != b.lse.shape:
        raise ShapeError(
            f"merge needs states of one shape; got out {list(a.out.shape)} and {list(b.out.shape)}, "
            f"lse {list(a.lse.shape)} and {list(b.lse.shape)}."
        )
    # Where both sets are empty, -inf less -inf would give NaN, here or in the gradient.
    none = (a.lse == -torch.inf) & (b.lse == -torch.inf)
    safe = torch.logaddexp(a.lse.masked_fill(none, 0.0), b.lse.masked_fill(none, 0.0)).masked_fill(none, 0.0)
    lse = safe.masked_fill(none, -torch.inf)
    wide = torch.promote_types(a.out.dtype, lse.dtype)
    left = (a.lse - safe).exp().unsqueeze(-1) * a.out.to(wide)
    right = (b.lse - safe).exp().unsqueeze(-1) * b.out.to(wide)
    return State((left + right).to(a.out.dtype), lse)
