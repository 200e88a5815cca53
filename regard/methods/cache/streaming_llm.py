"""The first keys and the most recent ones, at the positions they have inside the cache."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.caches import Window
from regard.core import Cost, Limit, Source, Spec
from regard.hf import Site, can_rotate
from regard.masks import Mask
from regard.masks import sinks as sinks_mask
from regard.masks import window as window_mask
from regard.methods.method import Method
from regard.ops import View


@dataclass(frozen=True)
class StreamingLLM(Method):
    """Every query sees the first `sinks` keys and the last `window` keys; the rest leave the cache for good.

    `window` does not count the sinks. With `in_cache_positions` distances are those inside the cache, so that no
    distance exceeds `sinks + window` however long the stream; without it keys keep their positions in the text.

    Raises: ValueError where window < 1 or sinks < 0.
    Source: Efficient Streaming Language Models with Attention Sinks, 2309.17453, section 3.
    Differs from the paper: the window's keys stay rotated as cached; instead the few sinks are turned forward by the
    gap that evicted keys left, or in prefill, where every query has its own gap, the query is turned back. That gives
    the same scores at O(sinks) a step.
    """

    window: int = 508
    sinks: int = 4
    in_cache_positions: bool = True

    spec: ClassVar[Spec] = Spec(
        id="streaming_llm",
        slot="method",
        source=Source("Efficient Streaming Language Models with Attention Sinks", "2309.17453", "section 3"),
        what="The first `sinks` keys and the last `window` keys, at their positions inside the cache.",
        cost=Cost(time=1, state=0),
        limits=(Limit("dense", window=10**6), Limit("sliding_window", sinks=0)),
        exact_at=(("window", 10**6),),
    )

    def __post_init__(self) -> None:
        self.at_least(window=1, sinks=0)

    def check(self, model: nn.Module) -> list[str]:
        if not (self.in_cache_positions and self.sinks):
            return []
        advice = "; use streaming_llm:in_cache_positions=false"
        return [f"in-cache positions are not to be had: {reason}{advice}" for reason in can_rotate(model)]

    def where(self, site: Site, q: Tensor, k: Tensor) -> Mask | None:
        if self.window >= site.M and site.phase == "prefill":
            return None
        return _kept(self.window, self.sinks)

    def inputs(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        if not self._turns_keys(site):
            return None
        gap = self._gap(site)
        if not int(gap) > 0:
            return None
        slots = ((site.k_positions[0] >= 0) & (site.k_positions[0] < self.sinks)).nonzero()[:, 0]
        k = k.clone()
        k[:, :, slots] = site.rotate(k[:, :, slots], gap[0].expand(len(slots)))
        return q, k, v

    def views(self, site: Site, q: Tensor, k: Tensor) -> Sequence[View]:
        if not (self.in_cache_positions and self.sinks) or self._turns_keys(site):
            return ()
        gap = self._gap(site)
        if not bool(torch.any(gap > 0)):
            return ()
        return (View(_far(self.window, self.sinks), site.rotate(q, -gap)),)

    def _gap(self, site: Site) -> Tensor:
        """How many tokens each query's cache has let go between its sinks and its window, [B|1, N]."""
        return (site.q_positions - (self.window + self.sinks - 1)).clamp(min=0)

    def _turns_keys(self, site: Site) -> bool:
        """One query of one text has one gap, and turning its few sinks forward is cheaper than scoring them apart."""
        alone = site.phase == "decode" and site.k_positions.shape[0] == 1 and site.k_positions.dim() == 2
        return alone and self.in_cache_positions and self.sinks > 0

    def cache(self, site: Site) -> Window | None:
        return Window(self.window, self.sinks)


@functools.cache
def _kept(window: int, sinks: int) -> Mask:
    return window_mask(window) | sinks_mask(sinks) if sinks else window_mask(window)


@functools.cache
def _far(window: int, sinks: int) -> Mask:
    """The pairs of a query and a sink that has left its window."""
    return sinks_mask(sinks) & ~window_mask(window)
