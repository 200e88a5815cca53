"""What one attention call knows besides its queries, keys and values."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from regard.edits import Edit, Normaliser, softmax
from regard.masks import Mask, causal, documents, everything
from regard.ops import attend


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One call of a layer, as every slot sees it.

    Shapes: tokens [B, N, C], what asks; memory [B, M, C], what is looked at (the tokens themselves unless `cross`);
    positions [B|1, N or M], -1 for padding, None: a key's position is its slot and the queries are the last N of M.
    `embeddings` [B, N, C] is the model's input before its first layer. Where a step goes on from a state, `before`
    [B, n, C] holds the layer's latest real inputs and `before_positions` [B|1, n] theirs, -1 where a row had fewer.
    `q` [B, H, N, D] are the projected queries, before any position. `documents` [B|1, N] says which document each token
    belongs to where several are packed into one sequence, one after another; None: all to one.
    """

    tokens: Tensor
    memory: Tensor
    causal: bool = False
    cross: bool = False
    q_positions: Tensor | None = None
    k_positions: Tensor | None = None
    layer: int = 0
    generator: torch.Generator | None = None
    embeddings: Tensor | None = None
    before: Tensor | None = None
    before_positions: Tensor | None = None
    q: Tensor | None = None
    documents: Tensor | None = None
    edits: tuple[Edit, ...] = ()

    @property
    def where(self) -> Mask:
        """Who may look where, as far as the call says; padding is in the positions."""
        order = causal() if self.causal else everything
        return order if self.documents is None else order & documents(self.documents)

    @property
    def real(self) -> Tensor | None:
        """Boolean [B|1, M]: the keys that are not padding; None where positions were not given."""
        return None if self.k_positions is None else self.k_positions >= 0

    @property
    def q_real(self) -> Tensor | None:
        """Boolean [B|1, N]: the queries that are not padding; None where positions were not given."""
        return None if self.q_positions is None else self.q_positions >= 0

    @cached_property
    def padded(self) -> bool:
        """Whether any query or key is padding."""
        return any(p is not None and bool((p < 0).any()) for p in (self.q_positions, self.k_positions))

    def q_at(self, N: int, M: int) -> Tensor:
        """The queries' positions [B|1, N], written out."""
        if self.q_positions is not None:
            return self.q_positions
        return torch.arange(M - N, M, device=self.tokens.device)[None]

    def k_at(self, M: int) -> Tensor:
        """The keys' positions [B|1, M], written out."""
        return torch.arange(M, device=self.tokens.device)[None] if self.k_positions is None else self.k_positions

    def visible(self, N: int, M: int) -> Tensor:
        """Who may look where as booleans [B|1, 1, N, M], for what can't be said through `attend`."""
        i, j = self.q_at(N, M)[:, None, :, None], self.k_at(M)[:, None, None, :]
        seen = (i >= 0) & (j >= 0)
        if self.documents is not None:
            seen = seen & (self.documents[:, None, :, None] == self.documents[:, None, None, :])
        return seen & (j <= i) if self.causal else seen

    @cached_property
    def starts(self) -> Tensor:
        """[B|1, N]: the slot of the first real token of each token's document, where `documents` are given."""
        assert self.documents is not None
        N = self.documents.shape[1]
        slots = torch.arange(N, device=self.documents.device)
        real = self.q_at(N, N) >= 0
        ids = torch.where(real, self.documents, self.documents.amin() - 1)
        before = torch.roll(ids.cummax(1).values, 1, 1)
        first = real & ((ids != before) | (slots == 0))
        return torch.where(first, slots, 0).cummax(1).values

    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        where: Mask | None = None,
        edits: tuple[Edit, ...] = (),
        scale: float | None = None,
        normaliser: Normaliser = softmax,
    ) -> Tensor:
        """Softmax attention under this call's order, padding and edits, and under `where` and `edits` besides.

        Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E].
        """
        mask = self.where if where is None else self.where & where
        return attend(
            q,
            k,
            v,
            where=mask,
            edits=(*self.edits, *edits),
            scale=scale,
            normaliser=normaliser,
            q_positions=self.q_positions,
            k_positions=self.k_positions,
        )

    def with_(self, **changes: object) -> Call:
        """The same call with some of its fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]
