"""How close a method's predictions are to the text, and to dense attention's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard.bench.subject import Subject


@dataclass(frozen=True)
class Quality:
    """For each position [T - 1]: loss in nats, divergence from dense attention, whether the likeliest token agrees."""

    losses: Tensor
    kl: Tensor
    agree: Tensor


@torch.no_grad()
def quality(subject: Subject, ids: Tensor, hidden: Tensor, dense: Tensor | None) -> Quality:
    """Losses of the tokens that follow each position, and KL(dense || method) of the same positions.

    Shapes: ids [T]; hidden and dense [T, C] last hidden states; dense None: the method is dense.
    """
    targets = ids[1:].to(hidden.device)
    losses, kls, agrees = [], [], []
    for stretch, ours in subject.log_probabilities(hidden[:-1]):
        losses.append(-ours.gather(-1, targets[stretch, None])[:, 0])
        if dense is None:
            continue
        theirs = subject.logits(dense[:-1][stretch]).log_softmax(-1)
        kls.append((theirs.exp() * (theirs - ours)).sum(-1))
        agrees.append(theirs.argmax(-1) == ours.argmax(-1))
    loss = torch.cat(losses).cpu()
    if dense is None:
        return Quality(loss, torch.zeros_like(loss), torch.ones_like(loss, dtype=torch.bool))
    return Quality(loss, torch.cat(kls).clamp(min=0).cpu(), torch.cat(agrees).cpu())
