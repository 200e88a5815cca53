"""A whole attention layer: tokens in, tokens out, step by step where it claims to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from regard.errors import ShapeError, Unsupported
from regard.mechanisms.call import Call
from regard.mechanisms.slot import Slot
from regard.mechanisms.state import reordered


@dataclass(frozen=True, eq=False)
class LayerState:
    """A layer's state between steps: how many real tokens each row has seen [B|1], and what the layer keeps."""

    seen: Tensor
    inner: Any


class Layer(Slot):
    """Tokens to tokens. A subclass sets `dim` and defines `attend`, and `begin` and `advance` where it decodes.

    `alone` is how many of the first tokens see none before them in causal order; but for what works in groups it is 1.
    """

    dim: int
    alone: int = 1

    @final
    def forward(
        self,
        tokens: Tensor,
        memory: Tensor | None = None,
        *,
        causal: bool = False,
        padding: Tensor | None = None,
        memory_padding: Tensor | None = None,
        positions: Tensor | None = None,
        memory_positions: Tensor | None = None,
        embeddings: Tensor | None = None,
        documents: Tensor | None = None,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Attend over the tokens, or from the tokens over `memory`.

        Shapes: tokens and result [B, N, C]; memory [B, M, C]; padding boolean [B, N] and memory_padding [B, M], True =
        real; positions [N] or [B, N] and memory_positions, by default each row's real tokens counted from 0;
        embeddings [B, N, C], the model's input, for mechanisms that read it; documents [N] or [B, N], whole numbers
        that never fall, where several documents are packed into one sequence: each is attended to as if alone. What
        comes out at padding is undefined.
        Raises: ShapeError, ValueError where they do not fit; Unsupported where the mechanism does not claim it.
        """
        self._tokens(tokens, "tokens")
        cross = memory is not None
        if memory is None:
            if memory_padding is not None or memory_positions is not None:
                raise ValueError("memory_padding and memory_positions need memory; for the tokens' own type padding=.")
            memory = tokens
        else:
            self._tokens(memory, "memory")
            if memory.shape[0] != tokens.shape[0]:
                raise ShapeError(f"tokens have batch {tokens.shape[0]} and memory {memory.shape[0]}; give one batch.")
            if causal:
                raise ValueError("causal=True has no meaning across two sequences. Type causal=False, or leave memory.")
        _alike(embeddings, tokens)
        at = _places("padding", tokens, padding, positions, cross)
        if documents is not None:
            documents = _packed(tokens, documents, cross, positions)
            if at is not None:  # documents are told apart by slots
                at = torch.where(at < 0, -1, torch.arange(tokens.shape[1], device=tokens.device))
        call = Call(
            tokens=tokens,
            memory=memory,
            causal=causal,
            cross=cross,
            q_positions=at,
            k_positions=_places("memory_padding", memory, memory_padding, memory_positions, True) if cross else at,
            layer=layer,
            generator=generator,
            embeddings=embeddings,
            documents=documents,
        )
        self.allow(call)
        return self.attend(call)

    def attend(self, call: Call) -> Tensor:
        """Tokens [B, N, C] for one checked call."""
        raise NotImplementedError

    @final
    def init_state(self, batch: int) -> LayerState:
        """The state before the first token.

        Raises: Unsupported where the mechanism does not decode.
        """
        if self.halts:
            raise Unsupported(f"{', '.join(self.halts)} can't decode step by step. Call it on the whole sequence.")
        device = next((p.device for p in self.parameters()), torch.device("cpu"))
        return LayerState(torch.zeros(1, dtype=torch.int64, device=device), self.begin(batch))

    @final
    def step(
        self,
        state: LayerState,
        tokens: Tensor,
        *,
        padding: Tensor | None = None,
        embeddings: Tensor | None = None,
        layer: int = 0,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, LayerState]:
        """The outputs for the next tokens [B, n, C], n >= 1, and the state after them; `state` is left as it was.

        Raises: ShapeError where they do not fit; Unsupported where the mechanism does not claim it.
        """
        self._tokens(tokens, "tokens")
        _alike(embeddings, tokens)
        seen = state.seen
        if padding is not None and _real("padding", tokens, padding) is not None:
            count = padding.cumsum(1)
            at = torch.where(padding, seen[:, None] + count - 1, -1)
            seen = seen + count[:, -1]
        else:
            at = seen[:, None] + torch.arange(tokens.shape[1], device=tokens.device)
            seen = seen + tokens.shape[1]
        call = Call(
            tokens=tokens,
            memory=tokens,
            causal=True,
            q_positions=at,
            k_positions=at,
            layer=layer,
            generator=generator,
            embeddings=embeddings,
        )
        self.allow(call)
        out, inner = self.advance(state.inner, call)
        return out, LayerState(seen, inner)

    @final
    def prefill(
        self, tokens: Tensor, *, padding: Tensor | None = None, embeddings: Tensor | None = None, layer: int = 0
    ) -> tuple[Tensor, LayerState]:
        """The outputs for a prompt [B, N, C], and the state after it."""
        self._tokens(tokens, "tokens")
        state = self.init_state(tokens.shape[0])
        return self.step(state, tokens, padding=padding, embeddings=embeddings, layer=layer)

    @final
    def reorder(self, state: LayerState, index: Tensor) -> LayerState:
        """The state for the batch's rows `index`, which may repeat: what beam search asks for."""
        return LayerState(reordered(state.seen, index), reordered(state.inner, index))

    @property
    def halts(self) -> list[str]:
        """The parts that can't go on step by step, by class; none where the layer decodes."""
        return [] if self.spec.decode else [type(self).__name__]

    def begin(self, batch: int) -> Any:
        """What is kept before the first token."""
        raise NotImplementedError

    def advance(self, inner: Any, call: Call) -> tuple[Tensor, Any]:
        """The outputs for the call's tokens, which follow what `inner` keeps, and what is kept after them."""
        raise NotImplementedError

    def _tokens(self, tokens: Tensor, what: str) -> None:
        if tokens.dim() != 3 or tokens.shape[-1] != self.dim:
            raise ShapeError(f"{type(self).__name__} takes {what} [B, N, {self.dim}]; got {list(tokens.shape)}.")


def _alike(embeddings: Tensor | None, tokens: Tensor) -> None:
    if embeddings is not None and embeddings.shape != tokens.shape:
        raise ShapeError(f"embeddings must be {list(tokens.shape)} as the tokens; got {list(embeddings.shape)}.")


def _real(name: str, tokens: Tensor, padding: Tensor | None) -> Tensor | None:
    """The padding mask, checked; None where nothing is padding."""
    if padding is None:
        return None
    if padding.dtype != torch.bool or padding.shape != tokens.shape[:2]:
        want = list(tokens.shape[:2])
        raise ShapeError(
            f"{name} must be booleans {want}, True = real; got {padding.dtype} {list(padding.shape)}. Use .bool()."
        )
    return None if bool(padding.all()) else padding


def _places(name: str, tokens: Tensor, padding: Tensor | None, given: Tensor | None, always: bool) -> Tensor | None:
    """Positions [B|1, N] of tokens, -1 for padding; None where a token's slot is its position."""
    real, N = _real(name, tokens, padding), tokens.shape[1]
    if given is not None:
        if given.is_floating_point() or given.shape not in ((N,), (1, N), tokens.shape[:2]):
            raise ShapeError(
                f"positions must be whole numbers [{N}] or {list(tokens.shape[:2])}; got {given.dtype} "
                f"{list(given.shape)}."
            )
        places = given if given.dim() == 2 else given[None]
        return places if real is None else torch.where(real, places, -1)
    if real is not None:
        return torch.where(real, real.cumsum(1) - 1, -1)
    return torch.arange(N, device=tokens.device)[None] if always else None


def _packed(tokens: Tensor, documents: Tensor, cross: bool, positions: Tensor | None) -> Tensor:
    """Documents [B|1, N], checked."""
    N = tokens.shape[1]
    if cross or positions is not None:
        given = "memory" if cross else "positions"
        raise ValueError(
            f"documents can't be given together with {given}: their tokens are counted from each one's first."
        )
    if (
        documents.is_floating_point()
        or documents.dtype == torch.bool
        or documents.shape not in ((N,), (1, N), tokens.shape[:2])
    ):
        raise ShapeError(
            f"documents must be whole numbers [{N}] or {list(tokens.shape[:2])}; got {documents.dtype} "
            f"{list(documents.shape)}."
        )
    ids = documents if documents.dim() == 2 else documents[None]
    if bool((ids[:, 1:] < ids[:, :-1]).any()):
        raise ValueError("documents must never fall along a sequence, as [0, 0, 1, 1, 1]; sort the tokens by document.")
    return ids
