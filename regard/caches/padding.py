"""How many padding tokens came before each row's first real token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lead:
    """Padding counted as chunks of tokens come in.

    Shapes: `count` [B], `started` boolean [B]: whether a real token has come yet.
    """

    count: Tensor
    started: Tensor

    def select(self, rows: Tensor) -> Lead:
        """The same for chosen rows of the batch."""
        return Lead(self.count[rows], self.started[rows])


def leading(real: Tensor) -> Tensor:
    """Padding tokens before each row's first real one: [B] from boolean [B, N]."""
    return (real.cumsum(-1) == 0).sum(-1)


def counted(lead: Lead | None, real: Tensor | None, seen: int) -> Lead | None:
    """The count after one more chunk; None as long as no padding came at all."""
    if real is None or bool(real.all()):
        return None if lead is None else Lead(lead.count, torch.ones_like(lead.started))
    if lead is None:
        rows = real.shape[0]
        lead = Lead(torch.zeros(rows, dtype=torch.int64, device=real.device), real.new_full((rows,), seen > 0))
    more = torch.where(lead.started, 0, leading(real))
    return Lead(lead.count + more, lead.started | real.any(-1))


def placed(index: Tensor, lead: Lead | None) -> Tensor:
    """Positions from token numbers [B|1, M]: counted from the first real token; -1 stays -1."""
    if lead is None:
        return index.clone()
    return torch.where(index < 0, -1, index - lead.count[:, None])


def numbered(start: int, length: int, real: Tensor | None, device: torch.device) -> Tensor:
    """Token numbers of a chunk, [B|1, N]; -1 for padding."""
    index = torch.arange(start, start + length, device=device)[None]
    return index if real is None else torch.where(real, index, -1)
