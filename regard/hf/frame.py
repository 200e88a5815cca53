"""What the model itself allows in one call, and where its queries and keys are."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from regard.caches import Kept
from regard.edits import Edit
from regard.errors import ShapeError, Unsupported
from regard.hf.allowed import AllowedPairs
from regard.hf.select import Kind
from regard.hf.written import Written, parts
from regard.masks import Mask, causal, everything

_CAUSAL = causal()


@dataclass(eq=False)
class Frame:
    """The base mask, the positions (None: keys 0 .. M-1, queries the last N), and the model's own additive mask.

    `real` says that no position is negative. `joined`, `counts` and `shown` hold what calls with the same frame have in
    common: masks put together, pairs counted, and whether a mask shows its one query every key.
    """

    where: Mask
    q: Tensor | None = None
    k: Tensor | None = None
    edit: Edit | None = None
    real: bool = True
    source: object = None
    joined: dict[tuple[Mask, ...], Mask] = field(default_factory=dict)
    counts: dict[Mask, Tensor] = field(default_factory=dict)
    shown: dict[Mask, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Shape:
    """Sizes of one call, and what is known beside the mask: the cache's own account and how much was seen before."""

    B: int
    H: int
    N: int
    M: int
    kind: Kind
    seen: int
    causal: bool
    kept: Kept | None
    device: torch.device


def frame(mask: object, call: Shape, known: dict[tuple, Frame]) -> Frame:
    """The frame of a call; the same one for all layers that were given the same mask."""
    if call.kept is not None:
        return _of_kept(mask, call, call.kept)
    key = (id(mask), call.kind, call.N, call.M, call.seen, call.causal)
    if len(known) > 32:  # modules called one by one, outside the model's own forward pass
        known.clear()
    if key not in known:
        known[key] = _frame(mask, call)
        known[key].source = mask  # kept alive, so that its id stays its own
    return known[key]


def _frame(mask: object, call: Shape) -> Frame:
    if isinstance(mask, AllowedPairs):
        return _of_allowed(mask, call)
    q, k = _natural(call)
    if mask is None:
        return Frame(_default(call), q, k)
    if not isinstance(mask, Tensor):
        raise Unsupported(f"An attention mask of type {type(mask).__name__} can't be served.")
    if mask.dim() == 2 and mask.shape[1] == call.M:
        k = torch.where(mask.bool(), torch.arange(call.M, device=call.device), -1)
        return Frame(_default(call), q, k, real=bool(mask.all()))
    return _of_tensor(mask, call, q, k)


def _default(call: Shape) -> Mask:
    """What is allowed where a model gives no mask: the past, if the module says that it is causal."""
    return _CAUSAL if call.causal and call.N > 1 and call.kind == "self" else everything


def _natural(call: Shape) -> tuple[Tensor | None, Tensor | None]:
    """Positions where no mask tells them."""
    if call.kind == "self" and call.N <= call.M:
        return None, None
    start = call.seen if call.kind == "cross" else 0
    q = torch.arange(start, start + call.N, device=call.device)[None]
    return q, torch.arange(call.M, device=call.device)[None]


def _of_allowed(mask: AllowedPairs, call: Shape) -> Frame:
    if (mask.N, mask.M) != (call.N, call.M):
        if mask.N == call.N and mask.M == 1:  # a model that lets its mask broadcast over the keys
            return _of_tensor(mask.dense, call, *_natural(call))
        raise ShapeError(
            f"The model made its mask for {mask.N} queries and {mask.M} keys, but attention got {call.N} and {call.M}."
        )
    if call.kind == "cross":
        tokens = torch.arange(call.seen, call.seen + call.N, device=call.device)[None]
        return Frame(mask.where(None, mask.lead), tokens, mask.k_positions(mask.lead), real=mask.real is None)
    where = mask.where(mask.lead, mask.lead)
    if mask.real is None and mask.kv_offset == 0 and mask.ends_together:
        return Frame(where)
    q = mask.q_positions(mask.lead, padded=mask.ends_together)
    return Frame(where, q, mask.k_positions(mask.lead), real=mask.real is None)


def _of_tensor(mask: Tensor, call: Shape, q: Tensor | None, k: Tensor | None) -> Frame:
    sizes = (call.B, call.H, call.N, call.M)
    if mask.dim() != 4 or any(n not in (1, size) for n, size in zip(mask.shape[:3], sizes, strict=False)):
        raise ShapeError(f"An attention mask must broadcast to {list(sizes)}; got {list(mask.shape)}.")
    if mask.shape[3] not in (1, call.M):
        if mask.shape[3] < call.M:
            raise ShapeError(f"The model's mask has {mask.shape[3]} keys for {call.M}.")
        mask = mask[..., : call.M]
    table, edit = parts(mask.expand(-1, -1, -1, call.M))
    start = call.M - call.N if q is None else call.seen if call.kind == "cross" else 0
    return Frame(everything if table is None else Written(table, start, 0), q, k, edit)


def _of_kept(mask: object, call: Shape, kept: Kept) -> Frame:
    """Positions as the cache tells them; the mask is read by token number, so that evicted tokens are simply absent."""
    q, k = kept.q_positions, kept.k_positions
    if k is not None and k.dim() == 3:
        k = k.repeat_interleave(call.H // k.shape[1], dim=1)
    if mask is None:
        return Frame(_default(call), q, k, real=k is None)
    if isinstance(mask, AllowedPairs):
        return Frame(mask.where(kept.lead, kept.lead), q, k, real=k is None)
    if isinstance(mask, Tensor) and mask.dim() == 4 and mask.shape[3] == call.seen + call.N:
        table, edit = parts(mask)
        if edit is not None:
            raise Unsupported("A cache that lets tokens go can't serve a model whose mask adds a bias to the scores.")
        if table is None:
            return Frame(everything, q, k, real=k is None)
        first = 0 if kept.lead is None else -kept.lead
        return Frame(Written(table, first + call.seen, first), q, k)
    raise Unsupported(f"A cache that lets tokens go can't serve an attention mask of {_described(mask)}.")


def _described(mask: object) -> str:
    return f"shape {list(mask.shape)}" if isinstance(mask, Tensor) else f"type {type(mask).__name__}"
