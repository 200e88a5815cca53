"""What stands around an attention layer: a norm before it, a residual past it, and a gated map after it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.backbones.stream import reads
from regard.mechanisms import Layer, LayerState


class SwiGLU(nn.Module):
    """The gated feed-forward map: `down(silu(gate(x)) * up(x))`.

    Shapes: [..., dim] to [..., dim].
    Source: "GLU Variants Improve Transformer", 2002.05202, section 2.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.gate = nn.Linear(dim, hidden, bias=False)
        self.up = nn.Linear(dim, hidden, bias=False)
        self.down = nn.Linear(hidden, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.gate(x)) * self.up(x))


class Block(nn.Module):
    """One attention layer and one feed-forward map, each after a norm and beside a residual.

    Shapes: tokens [B, N, dim] to [B, N, dim].
    """

    def __init__(self, layer: Layer, hidden: int) -> None:
        super().__init__()
        dim = layer.dim
        self.before_attention = nn.RMSNorm(dim)
        self.attention = layer
        self.before_map = nn.RMSNorm(dim)
        self.map = SwiGLU(dim, hidden)

    def forward(
        self,
        x: Tensor,
        *,
        index: int,
        embeddings: Tensor,
        stream: Tensor | None = None,
        padding: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """The tokens after this block; `embeddings` is the model's input and `index` the block's place.

        `stream` [1, length, dim] is what the layer reads of a second stream, after this block's norm.
        """
        read = self.reading(stream)(
            self.before_attention(x),
            causal=True,
            padding=padding,
            embeddings=embeddings,
            layer=index,
            generator=generator,
        )
        x = x + read
        return x + self.map(self.before_map(x))

    def step(
        self,
        state: LayerState,
        x: Tensor,
        *,
        index: int,
        embeddings: Tensor,
        stream: Tensor | None = None,
        padding: Tensor | None = None,
    ) -> tuple[Tensor, LayerState]:
        """The next tokens after this block, and its layer's state after them."""
        read, after = self.reading(stream).step(
            state, self.before_attention(x), padding=padding, embeddings=embeddings, layer=index
        )
        x = x + read
        return x + self.map(self.before_map(x)), after

    def reading(self, stream: Tensor | None) -> Layer:
        """The attention layer on a second stream [1, length, dim], where there is one."""
        layer: Layer = self.attention
        return layer.reading(stream[0]) if stream is not None and reads(layer) else layer
