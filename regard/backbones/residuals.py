"""A decoder whose sub-layers read what a mechanism along the layers makes of all that came before."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regard.backbones.block import SwiGLU
from regard.errors import ShapeError
from regard.mechanisms import Depth, Layer, LayerState

State = tuple[LayerState, ...]


@dataclass(frozen=True, eq=False)
class Trace:
    """One pass in detail: logits [B, N, vocabulary], what each sub-layer read and gave, and the sources along depth.

    Shapes: read and given, one [B, N, C] a sub-layer; sources, one more, the first being the model's input.
    """

    logits: Tensor
    read: tuple[Tensor, ...]
    given: tuple[Tensor, ...]
    sources: tuple[Tensor, ...]


class ResidualLM(nn.Module):
    """Embedding, attention and feed-forward sub-layers that read a `Depth` of what came before, norm and tied head.

    With `depth=None` they read the plain sum. `layers` gives one attention layer a block, or several that follow one
    another in it, such as a short window and global attention; each is a sub-layer of its own. Decoding keeps nothing
    along the layers, since a depth never looks at other tokens.

    Shapes: ids [B, N] to logits [B, N, vocabulary].
    Raises: ValueError where there is no layer or no vocabulary; ShapeError where a layer or the depth has another
    width, or the depth has parameters for fewer sources.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        layers: Sequence[Layer | Sequence[Layer]],
        *,
        depth: Depth | None = None,
        hidden: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if vocabulary < 1 or not layers:
            raise ValueError(
                f"ResidualLM needs vocabulary >= 1 and at least one layer; got {vocabulary} and {len(layers)} layers."
            )
        hidden = 8 * math.ceil(dim / 3) if hidden is None else hidden
        parts: list[nn.Module] = []
        for given in layers:
            for layer in [given] if isinstance(given, Layer) else given:
                if layer.dim != dim:
                    raise ShapeError(f"ResidualLM has dim={dim}, and a layer is {layer.dim} wide. Give one width.")
                parts.append(layer)
            parts.append(SwiGLU(dim, hidden))
        needed = len(parts) + 1
        if depth is not None and depth.dim != dim:
            raise ShapeError(f"ResidualLM has dim={dim}, and its depth is {depth.dim} wide. Give one width.")
        if depth is not None and depth.layers is not None and depth.layers < needed:
            raise ShapeError(
                f"ResidualLM has {needed - 1} sub-layers, and {type(depth).__name__} has parameters for {depth.layers} "
                f"sources. Type layers={needed}."
            )
        self.vocabulary, self.dim = vocabulary, dim
        self.embedding = nn.Embedding(vocabulary, dim)
        self.parts, self.norms = nn.ModuleList(parts), nn.ModuleList(nn.RMSNorm(dim) for _ in parts)
        self.depth, self.norm = depth, nn.RMSNorm(dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5, generator=generator)
        for part in parts:
            if isinstance(part, SwiGLU):
                for one in (part.gate, part.up, part.down):
                    nn.init.normal_(one.weight, std=one.in_features**-0.5, generator=generator)

    def forward(
        self, ids: Tensor, padding: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Logits [B, N, vocabulary] of the token after each; padding is boolean [B, N], True = real.

        Raises: ShapeError unless ids are whole numbers [B, N].
        """
        return self.trace(ids, padding, generator=generator).logits

    def trace(self, ids: Tensor, padding: Tensor | None = None, *, generator: torch.Generator | None = None) -> Trace:
        """The pass in detail."""
        return self._pass(
            ids,
            lambda layer, x, first, at: layer(
                x, causal=True, padding=padding, embeddings=first, layer=at, generator=generator
            ),
        )

    def init_state(self, batch: int) -> State:
        """The state before the first token. Raises: Unsupported where a layer does not decode."""
        return tuple(part.init_state(batch) for part in self.parts if isinstance(part, Layer))

    def step(self, state: State, ids: Tensor, padding: Tensor | None = None) -> tuple[Tensor, State]:
        """Logits [B, n, vocabulary] after each of the next tokens [B, n], and the state after them."""
        after: list[LayerState] = []

        def one(layer: Layer, x: Tensor, first: Tensor, at: int) -> Tensor:
            out, kept = layer.step(state[len(after)], x, padding=padding, embeddings=first, layer=at)
            after.append(kept)
            return out

        return self._pass(ids, one).logits, tuple(after)

    def _pass(self, ids: Tensor, call: Callable[[Layer, Tensor, Tensor, int], Tensor]) -> Trace:
        if ids.dim() != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ShapeError(f"ResidualLM takes ids as whole numbers [B, N]; got {ids.dtype} {list(ids.shape)}.")
        first = self.embedding(ids) * math.sqrt(self.dim)
        depth = self.depth
        state = None if depth is None else depth.init_state()
        sources, read, given, attention = [first], [], [], 0
        h = first
        if depth is not None and state is not None:
            h, state = depth.step(state, first)
        for part, norm in zip(self.parts, self.norms, strict=True):
            x = norm(h)
            if isinstance(part, Layer):
                out, attention = call(part, x, first, attention), attention + 1
            else:
                out = part(x)
            read.append(h)
            given.append(out)
            if depth is None or state is None:
                h = h + out
                sources.append(out)
            else:
                sources.append(out if depth.feeds == "outputs" else h + out)
                h, state = depth.step(state, sources[-1])
        logits = nn.functional.linear(self.norm(h), self.embedding.weight)
        return Trace(logits, tuple(read), tuple(given), tuple(sources))
