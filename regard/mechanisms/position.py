"""The second slot: what tells a query and a key how far apart they are."""

from __future__ import annotations

from torch import Tensor

from regard.edits import Edit
from regard.mechanisms.call import Call
from regard.mechanisms.slot import Slot


class Position(Slot):
    """Positions enter at one of three places; a subclass defines the one that it needs.

    `embed` adds to the tokens before the projection; `turn` changes queries and keys, each by its own position;
    `edits` makes edits of the scores, from positions or from the queries and keys themselves.
    """

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Tokens [B, N, C] with their positions [B|1, N] (-1: padding) added."""
        return tokens

    def turn(self, x: Tensor, positions: Tensor) -> Tensor:
        """Queries or keys [B, H or G, N, D] changed by their positions [B|1, N] (-1: padding)."""
        return x

    def edits(self, q: Tensor, k: Tensor, call: Call) -> tuple[Edit, ...]:
        """Edits of the scores of queries [B, H, N, D] and keys [B, G, M, D]."""
        return ()

    def width(self, head_dim: int) -> None:
        """Raise ShapeError or ValueError where heads of this width can't be served."""
