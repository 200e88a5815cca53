"""Only the most recent keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from regard.caches import Window
from regard.core import Cost, Limit, Source, Spec
from regard.hf import Site
from regard.masks import Mask
from regard.masks import window as window_mask
from regard.methods.method import Method


@dataclass(frozen=True)
class SlidingWindow(Method):
    """Every query sees the last `window` keys, its own included, and older ones leave the cache.

    Raises: ValueError where window < 1.
    Source: Longformer, 2004.05150, section 3.1.
    """

    window: int = 512

    spec: ClassVar[Spec] = Spec(
        id="sliding_window",
        slot="method",
        source=Source("Longformer: The Long-Document Transformer", "2004.05150", "section 3.1"),
        what="Only the last `window` keys, and a cache that keeps no more.",
        cost=Cost(time=1, state=0),
        limits=(Limit("dense", window=10**6), Limit("values", window=1)),
        exact_at=(("window", 10**6),),
    )

    def __post_init__(self) -> None:
        self.at_least(window=1)

    def where(self, site: Site, q: Tensor, k: Tensor) -> Mask | None:
        return None if self.window >= site.M and site.phase == "prefill" else window_mask(self.window)

    def cache(self, site: Site) -> Window | None:
        return Window(self.window)
