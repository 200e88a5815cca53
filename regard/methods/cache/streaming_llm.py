"""The first keys and the most recent ones, at the positions they have inside the cache."""

from __future__ import annotations

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
    Differs from the paper: keys stay rotated as cached; instead the query that looks at a sink is turned back by the
    gap left by evicted keys, which gives the same scores at O(1) a step.
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
        recent = window_mask(self.window)
        return recent | sinks_mask(self.sinks) if self.sinks else recent

    def views(self, site: Site, q: Tensor, k: Tensor) -> Sequence[View]:
        if not (self.in_cache_positions and self.sinks):
            return ()
        gap = (site.q_positions - (self.window + self.sinks - 1)).clamp(min=0)
        if not bool(torch.any(gap > 0)):
            return ()
        return (View(sinks_mask(self.sinks) & ~window_mask(self.window), site.rotate(q, -gap)),)

    def cache(self, site: Site) -> Window | None:
        return Window(self.window, self.sinks)
