"""Hugging Face's mask functions as exact mask expressions."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import reduce
from operator import or_

import torch
from torch import Tensor

from regard.masks import Mask, causal, chunks, documents, everything, predicate, window
from regard.masks.distance import FAR, Band

HfMask = Callable[..., Tensor]  # (batch index, head index, query token, key token) -> allowed


def translate(function: HfMask, q_lead: Tensor | None, k_lead: Tensor | None, last: tuple[int, int]) -> Mask:
    """A mask on positions that equals the function on token numbers; what is not recognised is kept as it is.

    Shapes: `q_lead`, `k_lead` [B], padding before each row's first token: token number = position + lead; None: none.
    `last` are the highest token numbers of queries and keys that the function may be asked for.
    """
    known = _known(function, k_lead)
    if known is None or (known is not everything and q_lead is not k_lead):
        return _opaque(function, q_lead, k_lead, last)
    return known


def _opaque(function: HfMask, q_lead: Tensor | None, k_lead: Tensor | None, last: tuple[int, int]) -> Mask:
    def on_positions(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        # Empty slots and the overhang of the last tiles are masked anyway, but the function may use numbers as indices.
        query = (i if q_lead is None else i + q_lead.to(i.device)[b]).clamp(0, last[0])
        key = (j if k_lead is None else j + k_lead.to(j.device)[b]).clamp(0, last[1])
        return function(b, h, query, key)

    on_positions.__name__ = getattr(function, "__qualname__", "mask function")
    return predicate(on_positions)


def _known(function: HfMask, lead: Tensor | None) -> Mask | None:
    """The mask expression for one of the functions that transformers builds, or None."""
    if getattr(function, "__module__", "") != "transformers.masking_utils":
        return None
    held = inspect.getclosurevars(function).nonlocals
    match function.__qualname__.split(".")[0]:
        case "causal_mask_function":
            return causal()
        case "bidirectional_mask_function":
            return everything
        case "sliding_window_overlay":
            return window(held["sliding_window"], ahead=FAR)
        case "sliding_window_bidirectional_overlay":
            return window(held["sliding_window"] + 1, ahead=held["sliding_window"])
        case "chunked_overlay":
            padding = held["left_padding"]
            same = torch.equal(padding, lead) if lead is not None else not bool(padding.any())
            return chunks(held["chunk_size"]) if same else None
        case "packed_sequence_mask_function" if lead is None:
            return documents(held["packed_sequence_mask"])
        case "and_masks":
            parts = [_known(part, lead) for part in _unpacked(held["mask_functions"])]
            return None if None in parts or not parts else reduce(_both, parts)  # type: ignore[arg-type]
        case "or_masks":
            parts = [_known(part, lead) for part in held["mask_functions"]]
            return None if None in parts or not parts else reduce(or_, parts)  # type: ignore[arg-type]
    return None


def _both(a: Mask, b: Mask) -> Mask:
    """The intersection, with bands on distances joined to one band."""
    if a is everything or b is everything:
        return b if a is everything else a
    if isinstance(a, Band) and isinstance(b, Band) and a.block == b.block == 1:
        return Band(max(a.least, b.least), min(a.most, b.most))
    return a & b


def _unpacked(functions: tuple[HfMask, ...]) -> list[HfMask]:
    """Within packed sequences a mask on distances is the same before and after positions restart."""
    names = [getattr(function, "__qualname__", "").split(".")[0] for function in functions]
    if "packed_sequence_mask_function" not in names:
        return list(functions)
    found = []
    for name, function in zip(names, functions, strict=True):
        if name == "remap_positions_for_packed_sequence":
            inner = inspect.getclosurevars(function).nonlocals["mask_function"]
            plain = _known(inner, None)
            function = inner if plain is everything or (isinstance(plain, Band) and plain.block == 1) else function
        found.append(function)
    return found
