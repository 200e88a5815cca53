"""A decoder language model around attention layers that are given to it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regard.backbones.block import Block
from regard.errors import ShapeError
from regard.mechanisms import Layer, LayerState

State = tuple[LayerState, ...]


class DecoderLM(nn.Module):
    """Embedding, one block around each attention layer, a norm, and a head that shares the embedding unless `tied` is
    False.

    Everything but the layers is initialised from `generator`, so that two models with one seed and other attention
    differ in their attention alone.

    Shapes: ids [B, N] to logits [B, N, vocabulary].
    Raises: ValueError where there is no layer or no vocabulary; ShapeError where a layer is not `dim` wide.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        layers: Sequence[Layer],
        *,
        hidden: int | None = None,
        tied: bool = True,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if vocabulary < 1 or not layers:
            raise ValueError(
                f"DecoderLM needs vocabulary >= 1 and at least one layer; got {vocabulary} and {len(layers)} layers."
            )
        for index, layer in enumerate(layers):
            if layer.dim != dim:
                raise ShapeError(f"DecoderLM has dim={dim}, and layer {index} is {layer.dim} wide. Give one width.")
        hidden = 8 * math.ceil(dim / 3) if hidden is None else hidden
        self.vocabulary, self.dim = vocabulary, dim
        self.embedding = nn.Embedding(vocabulary, dim)
        self.blocks = nn.ModuleList(Block(layer, hidden) for layer in layers)
        self.norm = nn.RMSNorm(dim)
        self.head = nn.Linear(dim, vocabulary, bias=False)
        self._start(generator)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(
        self, ids: Tensor, padding: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits [B, N, vocabulary] of the token after each; padding is boolean [B, N], True = real.

        Raises: ShapeError unless ids are whole numbers [B, N]; Unsupported where a layer can't be causal or padded.
        """
        x = embeddings = self._embedded(ids)
        for index, block in enumerate(self.blocks):
            x = block(x, index=index, embeddings=embeddings, padding=padding, generator=generator)
        return self.head(self.norm(x))

    def init_state(self, batch: int) -> State:
        """The state before the first token. Raises: Unsupported where a layer does not decode."""
        return tuple(block.attention.init_state(batch) for block in self._blocks())

    def step(self, state: State, ids: Tensor, padding: Tensor | None = None) -> tuple[Tensor, State]:
        """Logits [B, n, vocabulary] after each of the next tokens [B, n], and the state after them."""
        x = embeddings = self._embedded(ids)
        after = []
        for index, (block, kept) in enumerate(zip(self._blocks(), state, strict=True)):
            x, kept = block.step(kept, x, index=index, embeddings=embeddings, padding=padding)
            after.append(kept)
        return self.head(self.norm(x)), tuple(after)

    @torch.no_grad()
    def generate(self, ids: Tensor, count: int) -> Tensor:
        """The `count` likeliest next tokens [B, count] one after another, after a prompt [B, N].

        Raises: ValueError where count < 1; Unsupported where a layer does not decode.
        """
        if count < 1:
            raise ValueError(f"DecoderLM.generate needs count >= 1; got {count}.")
        logits, state = self.step(self.init_state(ids.shape[0]), ids)
        told = [logits[:, -1:].argmax(-1)]
        while len(told) < count:
            logits, state = self.step(state, told[-1])
            told.append(logits[:, -1:].argmax(-1))
        return torch.cat(told, 1)

    def _blocks(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def _embedded(self, ids: Tensor) -> Tensor:
        if ids.dim() != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ShapeError(f"DecoderLM takes ids as whole numbers [B, N]; got {ids.dtype} {list(ids.shape)}.")
        return self.embedding(ids) * math.sqrt(self.dim)

    def _start(self, generator: torch.Generator | None) -> None:
        """Weights of variance 1/width everywhere, and of the maps that end in the residual less with every block."""
        nn.init.normal_(self.embedding.weight, std=self.dim**-0.5, generator=generator)
        nn.init.normal_(self.head.weight, std=self.dim**-0.5, generator=generator)
        for block in self._blocks():
            for part in (block.map.gate, block.map.up, block.map.down):
                nn.init.normal_(part.weight, std=part.in_features**-0.5, generator=generator)
            block.map.down.weight.data.div_(math.sqrt(2 * len(self.blocks)))
