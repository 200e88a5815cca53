"""A local window, the first block, and blocks at distances that are powers of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from regard.core import Cost, Limit, Source, Spec
from regard.hf import Site
from regard.masks import Mask, power
from regard.methods.method import Method


@dataclass(frozen=True)
class PowerAttention(Method):
    """Every query sees `window` blocks up to its own, the first `sinks` blocks, and the blocks 1, 2, 4, 8... back.

    As in the paper `block` is in tokens, `window` and `sinks` are in blocks. The cache stays whole.

    Raises: ValueError where block < 1, window < 1 or sinks < 0.
    Source: PowerAttention, 2503.03588, section 3.
    Differs from the paper: used without continued pre-training, which the paper says costs accuracy; blocks of 64
    instead of 256 by default, since a window of five blocks of 256 would cover a third of 4096 tokens.
    """

    block: int = 64
    window: int = 5
    sinks: int = 1

    spec: ClassVar[Spec] = Spec(
        id="power_attention",
        slot="method",
        source=Source(
            "PowerAttention: Exponentially Scaling of Receptive Fields for Effective Sparse Attention",
            "2503.03588",
            "section 3",
        ),
        what="A window of blocks, the first blocks, and blocks at power-of-two distances.",
        cost=Cost(time=1, state=1),
        limits=(Limit("dense", window=10**6),),
        exact_at=(("window", 10**6),),
    )

    def __post_init__(self) -> None:
        self.at_least(block=1, window=1, sinks=0)

    def where(self, site: Site, q: Tensor, k: Tensor) -> Mask | None:
        return power(self.block, self.window, self.sinks)
