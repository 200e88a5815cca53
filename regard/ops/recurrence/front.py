"""The door to the recurrence: checks, padding, documents, normalisers and both sides; engines see none of them."""

from __future__ import annotations

from typing import Literal, overload

import torch
from torch import Tensor

from regard.ops.recurrence.choose import choose, explained
from regard.ops.recurrence.engine import Recurring
from regard.ops.recurrence.normalise import Sums, log_weights, summed, weighed
from regard.ops.recurrence.problem import Memory, Normalise, Recurrence, Write, blank, fading, shapes
from regard.ops.recurrence.refuse import refuse
from regard.ops.recurrence.sides import both_sides, ends, starts
from regard.ops.recurrence.watch import WATCHERS, Seen, tell


@overload
def recur(q: Tensor, k: Tensor, v: Tensor, *, keep: Literal[True], **settings: object) -> tuple[Tensor, Memory]: ...
@overload
def recur(q: Tensor, k: Tensor, v: Tensor, *, keep: Literal[False] = False, **settings: object) -> Tensor: ...


def recur(  # type: ignore[misc]
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    decay: Tensor | float | None = None,
    write: Write = "add",
    beta: Tensor | None = None,
    normalise: Normalise = "none",
    state: Memory | None = None,
    causal: bool = True,
    scale: float = 1.0,
    real: Tensor | None = None,
    documents: Tensor | None = None,
    chunk: int | None = None,
    keep: bool = False,
    engine: str | Recurring = "auto",
) -> Tensor | tuple[Tensor, Memory]:
    """The linear recurrence S_t = diag(exp(decay_t)) S_{t-1} + k_t v_t^T, read as out_t = scale q_t S_t.

    `write="delta"` adds k_t (v_t - k_t S)^T in place of k_t v_t^T, S as it is after the decay: what is stored under k_t
    is replaced. `beta` is how much of it is written. `normalise="sum"` divides by what the keys alone give for q_t;
    `normalise="softmax"` takes keys for logarithms of weights, and each channel weighs the tokens up to t so that they
    sum to 1. Without a causal order every token reads all tokens, before and after, weaker by the decay between.

    Shapes: q [B, H, N, D]; k [B, G, N, D]; v [B, G, N, E], H a multiple of G (groups share what is kept). decay is the
    logarithm of what stays per step, at most 0, -inf to forget all: a number, [G], [G, D], [B, G, N] or [B, G, N, D].
    beta [B, G, N]. real [B|1, N], False at padding, which neither writes nor forgets; documents [B|1, N], whole numbers
    that never fall, each of which starts from nothing. Result [B, H, N, E], with `keep=True` and the Memory after N.
    `chunk` is how many tokens the chunked engine takes at a time, a power of two, chosen by size where it is None.

    Raises: ShapeError, ValueError for what does not fit together; EngineRefused where the engine asked for can't run.
    """
    if WATCHERS:
        settings = {
            "decay": decay, "write": write, "beta": beta, "normalise": normalise, "state": state, "causal": causal,
            "scale": scale, "real": real, "documents": documents,
        }  # fmt: skip
        out = _recur(q, k, v, **settings, chunk=chunk, keep=keep, engine=engine)
        tell(Seen(q, k, v, settings, out))
        return out
    return _recur(q, k, v, decay, write, beta, normalise, state, causal, scale, real, documents, chunk, keep, engine)


def _recur(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | float | None,
    write: Write,
    beta: Tensor | None,
    normalise: Normalise,
    state: Memory | None,
    causal: bool,
    scale: float,
    real: Tensor | None,
    documents: Tensor | None,
    chunk: int | None,
    keep: bool,
    engine: str | Recurring,
) -> Tensor | tuple[Tensor, Memory]:
    shapes(q, k, v)
    refuse(k, v, write, beta, normalise, state, causal, decay is not None, real, documents, chunk)
    wide = torch.promote_types(v.dtype, torch.float32)
    (B, H, _, D), (G, E) = q.shape, (k.shape[1], v.shape[-1])
    fade = None if decay is None else fading(decay, k)
    q, keys, values = (q * scale).to(wide), k.to(wide), v.to(wide)
    if real is not None:
        values = values.masked_fill(~real[:, None, :, None], 0.0)
        keys = keys if normalise == "softmax" else keys.masked_fill(~real[:, None, :, None], 0.0)
    begins = None if documents is None else starts(documents, real)
    total: Tensor | None = None
    if normalise == "softmax":
        last = None if documents is None else ends(documents, real)
        made = log_weights(keys, fade, real, begins, last, None if state is None else state.total, causal)
        keys, fade, total = made.keys, made.decay, made.total
    else:
        fade = blank(fade, keys, real, begins)
    amount = _amount(beta, write, keys)
    if normalise == "sum":
        values = summed(values, real)
    if amount is not None and write == "add":
        values, amount = values * amount[..., None], None
    p = Recurrence(
        q=q.unflatten(1, (G, H // G)),
        k=keys,
        v=values,
        decay=fade,
        beta=amount,
        first=_first(state, normalise, B, G, D, E, values),
        chunk=chunk,
    )
    run = choose(p, engine)
    out, S = run.run(p) if causal else both_sides(run, p, begins, None if documents is None else ends(documents, real))
    out = out.flatten(1, 2)
    if normalise == "sum":
        out, S, total = weighed(Sums(out, S))
    return (out.to(v.dtype), Memory(S, total)) if keep else out.to(v.dtype)


def explain_recur(q: Tensor, k: Tensor, v: Tensor, *, decay: Tensor | float | None = None, write: Write = "add") -> str:
    """Which engine `recur` would take, and why; nothing is computed."""
    shapes(q, k, v)
    fade = None if decay is None else fading(decay, k)
    B, G, N, D = k.shape
    ones = None if write == "add" else k.new_ones(B, G, N)
    split = q.unflatten(1, (G, q.shape[1] // G))
    return explained(Recurrence(q=split, k=k, v=v, decay=fade, beta=ones, first=k.new_zeros(B, G, D, v.shape[-1])))


def _amount(beta: Tensor | None, write: Write, k: Tensor) -> Tensor | None:
    if beta is None:
        return torch.ones_like(k[..., 0]) if write == "delta" else None
    return beta.to(k.dtype)


def _first(state: Memory | None, normalise: Normalise, B: int, G: int, D: int, E: int, like: Tensor) -> Tensor:
    if state is None:
        return like.new_zeros(B, G, D, like.shape[-1])
    values = state.values.to(like.dtype)
    if normalise != "sum":
        return values
    assert state.total is not None
    return torch.cat([values, state.total.to(like.dtype)[..., None]], -1)
