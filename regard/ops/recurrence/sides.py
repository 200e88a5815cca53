"""Both sides of a token: a recurrence forwards, one backwards, and the token itself counted once."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from regard.ops.recurrence.engine import Recurring
from regard.ops.recurrence.problem import Recurrence


def starts(documents: Tensor, real: Tensor | None) -> Tensor:
    """Boolean [B|1, N]: where a document has its first token that is real."""
    ids = documents if real is None else torch.where(real, documents, documents.amin() - 1)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[:, 1:] = ids[:, 1:] != ids.cummax(1).values[:, :-1]
    return first if real is None else first & real


def ends(documents: Tensor, real: Tensor | None) -> Tensor:
    """[B|1, N]: the slot of the last real token of each one's document."""
    N = documents.shape[1]
    backwards = starts(-documents.flip(1), None if real is None else real.flip(1))
    slots = torch.arange(N, device=documents.device)
    return (N - 1 - torch.where(backwards, slots, 0).cummax(1).values).flip(1)


def both_sides(run: Recurring, p: Recurrence, begins: Tensor | None, last: Tensor | None) -> tuple[Tensor, Tensor]:
    """Outputs over all tokens, weaker by the decay between the two, and what is kept of them all.

    Where nothing fades and there is one document, all tokens read the same.
    """
    if p.decay is None:
        kept = p.k.transpose(-1, -2) @ p.v
        return p.q @ kept.unsqueeze(2), kept
    forwards, kept = run.run(p)
    each = p.written_out().decay
    assert each is not None
    # Going back from a token to the one before it takes the decay of the later of the two.
    gone = torch.cat([each[:, :, 1:], torch.zeros_like(each[:, :, :1])], 2).flip(2)
    back = replace(p, q=p.q.flip(3), k=p.k.flip(2), v=p.v.flip(2), decay=gone, first=torch.zeros_like(p.first))
    backwards = run.run(back)[0].flip(3)
    own = (p.q * p.k.unsqueeze(2)).sum(-1, keepdim=True) * p.v.unsqueeze(2)
    return forwards + backwards - own, kept
