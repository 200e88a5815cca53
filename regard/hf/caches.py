"""Caches of keys and values inside transformers' own cache objects."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from transformers.cache_utils import (
    Cache,
    CacheLayerMixin,
    DynamicCache,
    DynamicLayer,
    DynamicSlidingWindowLayer,
    EncoderDecoderCache,
)

from regard.caches import CacheLayer, Kept, storage_bytes
from regard.errors import Unsupported


class HeldLayer(CacheLayerMixin):
    """One of our cache layers in the place of transformers' own.

    `real` is set before each update: which of the next tokens are no padding. `kept` is the last update's account.
    """

    is_sliding = False
    is_compileable = False
    supports_early_init = False

    def __init__(self, held: CacheLayer) -> None:
        self.held = held
        self.real: Tensor | None = None
        self.kept: Kept | None = None

    @property
    def is_croppable(self) -> bool:  # type: ignore[override]
        return not self.held.evicts

    @property
    def is_initialized(self) -> bool:  # type: ignore[override]
        return self.held.seen > 0

    @property
    def keys(self) -> Tensor | None:  # type: ignore[override]
        return self.held.tensors[0] if self.held.tensors else None

    @property
    def values(self) -> Tensor | None:  # type: ignore[override]
        return self.held.tensors[1] if self.held.tensors else None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is made before the first token."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Take in the next tokens; gives the keys and values for their queries."""
        self.kept = self.held.update(key_states, value_states, self.real)
        return self.kept.keys, self.kept.values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Masks are made for all tokens, as if none had gone; which of them are here the positions tell."""
        return self.held.seen + query_length, 0

    def get_seq_length(self) -> int:
        """Tokens seen."""
        return self.held.seen

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    get_max_cache_shape = get_max_length  # its name in earlier versions of transformers

    def crop(self, tokens: int) -> None:
        """Keep the first `tokens`, or where negative forget the last ones; RegardError where earlier ones are gone."""
        self.held.crop(self.held.seen + tokens if tokens <= 0 else tokens)

    def reset(self) -> None:
        """Forget everything."""
        self.held.reset()
        self.kept = None

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Follow the beams."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows of the batch."""
        if self.keys is not None:
            self.held.select(indices.to(self.keys.device))

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row of the batch."""
        if self.keys is not None:
            self.held.select(torch.arange(self.keys.shape[0], device=self.keys.device).repeat_interleave(repeats))

    def offload(self) -> None:
        raise Unsupported("A cache layer of an intervention can't be offloaded; leave cache_implementation unset.")


def hold(cache: Cache, number: int, make: Callable[[], CacheLayer | None], who: str) -> HeldLayer | None:
    """Put an intervention's cache layer in the place of a layer that has seen nothing; None where it wants none.

    Raises: Unsupported where the cache is of a kind that can't be replaced, or has seen tokens already.
    """
    if not isinstance(cache, DynamicCache) or cache.offloading:
        raise Unsupported(
            f"{who} keeps its own keys and values, which needs a DynamicCache on the model's device; got "
            f"{type(cache).__name__}. Leave cache_implementation unset, or pass run.cache()."
        )
    layers = cache.layers
    if cache.layer_class_to_replicate is not None:
        while len(layers) <= number:
            layers.append(cache.layer_class_to_replicate())
    layer = layers[number]
    if isinstance(layer, HeldLayer):
        return layer
    if not isinstance(layer, DynamicLayer) or type(layer) not in (DynamicLayer, DynamicSlidingWindowLayer):
        raise Unsupported(f"{who} can't take the place of a {type(layer).__name__} (layer {number}).")
    if layer.get_seq_length():
        raise Unsupported(
            f"{who} must see a cache from its first token on, but layer {number} already holds "
            f"{layer.get_seq_length()}. Start with an empty cache: run.cache()."
        )
    held = make()
    if held is None:
        return None
    found = layers[number] = HeldLayer(held)
    return found


def cache_bytes(cache: Cache) -> int:
    """Bytes that a transformers cache holds, counted by storage."""
    if isinstance(cache, EncoderDecoderCache):
        return cache_bytes(cache.self_attention_cache) + cache_bytes(cache.cross_attention_cache)
    tensors: list[Tensor] = []
    for layer in cache.layers:
        if isinstance(layer, HeldLayer):
            tensors += layer.held.tensors
        else:
            tensors += [
                t for t in (getattr(layer, "keys", None), getattr(layer, "values", None)) if isinstance(t, Tensor)
            ]
    return storage_bytes(tensors)
