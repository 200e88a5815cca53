"""The last slot: from heads back to tokens."""

from __future__ import annotations

from torch import Tensor

from regard.mechanisms.call import Call
from regard.mechanisms.slot import Slot


class Merge(Slot):
    """Head outputs [B, H, N, E] to tokens [B, N, C]; `call.q` has the projected queries, before any position."""

    def forward(self, out: Tensor, call: Call) -> Tensor:
        """Tokens [B, N, C] from head outputs [B, H, N, E]."""
        raise NotImplementedError
