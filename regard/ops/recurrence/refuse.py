"""What does not go together in a recurrence."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.errors import ShapeError
from regard.ops.recurrence.problem import Memory, Normalise, Write


def refuse(
    k: Tensor,
    v: Tensor,
    write: Write,
    beta: Tensor | None,
    normalise: Normalise,
    state: Memory | None,
    causal: bool,
    fades: bool,
    real: Tensor | None,
    documents: Tensor | None,
    chunk: int | None,
) -> None:
    """Raise ShapeError or ValueError for settings of `recur` that have no meaning together."""
    (B, G, N, D), E = k.shape, v.shape[-1]
    if write not in ("add", "delta"):
        raise ValueError(f"recur: write must be 'add' or 'delta'; got {write!r}.")
    if normalise not in ("none", "sum", "softmax"):
        raise ValueError(f"recur: normalise must be 'none', 'sum' or 'softmax'; got {normalise!r}.")
    if write == "delta" and normalise != "none":
        raise ValueError(
            f"recur: the delta rule has no sum of weights to divide by. Type normalise='none', not {normalise!r}."
        )
    if write == "delta" and not causal:
        raise ValueError("recur: the delta rule needs an order to replace in. Type causal=True, or write='add'.")
    if normalise == "softmax" and (beta is not None or (fades and not causal)):
        what = "amounts beta" if beta is not None else "a decay without an order"
        raise ValueError(f"recur: normalise='softmax' has no meaning with {what}. Type normalise='sum'.")
    if not causal and state is not None:
        raise ValueError(
            "recur: a state goes on in order, so it has no meaning without one. Type causal=True, or state=None."
        )
    if documents is not None and state is not None:
        raise ValueError("recur: documents start from nothing, so a state can't go before them. Give one of the two.")
    if chunk is not None and (chunk < 1 or chunk & (chunk - 1)):
        raise ValueError(f"recur: chunk must be a power of two such as 64; got {chunk}.")
    if beta is not None and beta.shape != (B, G, N):
        raise ShapeError(f"recur: beta must be [B, G, N] = {[B, G, N]}; got {list(beta.shape)}.")
    for name, given in (("real", real), ("documents", documents)):
        if given is not None and given.shape not in ((B, N), (1, N)):
            raise ShapeError(f"recur: {name} must be [{B}, {N}] or [1, {N}]; got {list(given.shape)}.")
    if real is not None and real.dtype != torch.bool:
        raise ShapeError(f"recur: real must be booleans, False at padding; got {real.dtype}. Use .bool().")
    if state is None:
        return
    if state.values.shape != (B, G, D, E) or (state.total is not None and state.total.shape != (B, G, D)):
        got = list(state.values.shape)
        raise ShapeError(f"recur: this state is {got}, and these tokens go on from {[B, G, D, E]}.")
    if (state.total is None) != (normalise == "none"):
        had = "none" if state.total is None else "'sum' or 'softmax'"
        raise ValueError(f"recur: this state was made with normalise={had}, and normalise={normalise!r} came.")
