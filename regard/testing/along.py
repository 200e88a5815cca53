"""A mechanism along the layers, as a layer whose tokens are one token's sources: so that it meets the same checks."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from regard.mechanisms import Call, Depth, DepthState, Layer


class Along(Layer):
    """A depth seen from the side: the sources of one token are its tokens, one after another.

    Shapes: sources [B, S, dim] to what is read after each, [B, S, dim].
    """

    def __init__(self, depth: Depth, heads: int) -> None:
        super().__init__()
        self.depth, self.dim, self.heads = depth, depth.dim, heads
        self.spec = replace(depth.spec, padding=False, packing=False)  # type: ignore[misc]

    def attend(self, call: Call) -> Tensor:
        return self.depth(call.tokens[:, None])[:, 0]

    def begin(self, batch: int) -> DepthState:
        return self.depth.init_state()

    def advance(self, inner: DepthState, call: Call) -> tuple[Tensor, DepthState]:
        reads = []
        for source in call.tokens.unbind(1):
            read, inner = self.depth.step(inner, source[:, None])
            reads.append(read)
        return torch.cat(reads, 1), inner
