"""A decoder language model around attention layers that are given to it."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regard.backbones.block import Block
from regard.backbones.stream import reads
from regard.errors import ShapeError
from regard.mechanisms import Layer, LayerState


@dataclass(frozen=True, eq=False)
class State:
    """The state of decoding: each layer's, and what it reads of the second stream.

    Shapes: streams [1, length, dim] each, None for a layer that reads none.
    """

    layers: tuple[LayerState, ...]
    streams: tuple[Tensor | None, ...]


class DecoderLM(nn.Module):
    """Embedding, one block around each attention layer, a norm, and a head that shares the embedding unless `tied` is
    False.

    Everything but the layers is initialised from `generator`, so that two models with one seed and other attention
    differ in their attention alone.

    Where layers read a fixed sequence (`reading`, as the deconstructed variants rnd_fixed and text_fixed do), the first
    one's runs through the blocks as a second stream, and each of them reads that stream as its own block has normed it;
    token ids start it with their embedding. The others' own sequences are not read.

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
        self.places = tuple(range(len(layers)))  # what each layer is told of its place
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
        streams = self._streams(ids.shape[1], generator)
        for index, block, stream in zip(self.places, self.blocks, streams, strict=True):
            x = block(x, index=index, embeddings=embeddings, stream=stream, padding=padding, generator=generator)
        return self.head(self.norm(x))

    @property
    def layers(self) -> list[Layer]:
        """The attention layers, in order."""
        return [block.attention for block in self._blocks()]

    def init_state(self, batch: int) -> State:
        """The state before the first token; the second stream is computed here, once.

        Raises: Unsupported where a layer does not decode.
        """
        return State(tuple(layer.init_state(batch) for layer in self.layers), self._streams())

    def step(self, state: State, ids: Tensor, padding: Tensor | None = None) -> tuple[Tensor, State]:
        """Logits [B, n, vocabulary] after each of the next tokens [B, n], and the state after them."""
        x = embeddings = self._embedded(ids)
        after = []
        known = zip(self.places, self._blocks(), state.layers, state.streams, strict=True)
        for index, block, kept, stream in known:
            x, kept = block.step(kept, x, index=index, embeddings=embeddings, stream=stream, padding=padding)
            after.append(kept)
        return self.head(self.norm(x)), State(tuple(after), state.streams)

    def reorder(self, state: State, index: Tensor) -> State:
        """The state for the batch's rows `index`, which may repeat; the second stream is the same for every row."""
        pairs = zip(self.layers, state.layers, strict=True)
        return State(tuple(layer.reorder(kept, index) for layer, kept in pairs), state.streams)

    def without(self, layers: Collection[int]) -> DecoderLM:
        """A copy without these blocks, counted from 0, and with nothing trained again.

        `model.without(range(1, len(model.blocks), 2))` leaves the odd layers out. The others are told the place that
        they had.

        Raises: ValueError where there is no such block, or none would stay.
        """
        gone, count = set(layers), len(self.blocks)
        if not gone <= set(range(count)) or len(gone) == count:
            raise ValueError(
                f"DecoderLM.without takes some of the blocks 0 to {count - 1} and leaves at least one; got "
                f"{sorted(gone)}."
            )
        made = deepcopy(self)
        stay = [index for index in range(count) if index not in gone]
        made.blocks = nn.ModuleList(made.blocks[index] for index in stay)
        made.places = tuple(self.places[index] for index in stay)
        return made

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

    def _streams(
        self, length: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[Tensor | None, ...]:
        """What each layer reads of the second stream, [1, length, dim], as its block's norm leaves it.

        The stream passes the same blocks as any text, and no further than the last layer that reads it.
        """
        found: list[Tensor | None] = [None] * len(self.blocks)
        readers = [n for n, layer in enumerate(self.layers) if reads(layer)]
        if not readers:
            return tuple(found)
        first = self.layers[readers[0]]
        assert reads(first)
        rows = first.stream[:length][None]
        x = start = rows if rows.is_floating_point() else self._embedded(rows)
        for n, (index, block) in enumerate(zip(self.places, self._blocks(), strict=True)):
            found[n] = block.before_attention(x) if n in readers else None
            if n == readers[-1]:
                break
            x = block(x, index=index, embeddings=start, stream=found[n], generator=generator)
        return tuple(found)

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
