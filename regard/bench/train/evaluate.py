"""How well a model answers what a task asks."""

from __future__ import annotations

import torch
from torch import nn

from regard.bench.tasks import SILENT, Task
from regard.bench.train.settings import HELD_OUT, Settings, lengths
from regard.errors import RegardError

_TOKENS = 4096  # in one batch of testing


def evaluate(model: nn.Module, task: Task, length: int, count: int) -> dict[str, float]:
    """Mean loss in nats, and the share of right answers, over `count` held-out sequences: the same for every model."""
    task.fit(length)
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(HELD_OUT + length)
    loss, right, asked = 0.0, 0, 0
    size = max(1, _TOKENS // length)
    model.eval()
    with torch.no_grad():
        while count > 0:
            ids, targets = (t.to(device) for t in task.batch(generator, min(size, count), length, held_out=True))
            own = torch.Generator(device).manual_seed(HELD_OUT + length)
            logits = model(ids, generator=own).flatten(0, 1).float()
            answers = targets.flatten()
            loss += nn.functional.cross_entropy(logits, answers, ignore_index=SILENT, reduction="sum").item()
            there = answers != SILENT
            right += int((logits.argmax(-1) == answers)[there].sum())
            asked += int(there.sum())
            count -= size
    model.train()
    return {"loss": loss / asked, "accuracy": right / asked}


def afar(model: nn.Module, task: Task, settings: Settings) -> dict[str, float | None]:
    """The metric at lengths that the model was not trained at; None where the task or the mechanism has no such."""
    found: dict[str, float | None] = {}
    for length in lengths(settings.length):
        count = max(8, settings.tests * settings.length // max(length, settings.length) // 2)
        try:
            found[str(length)] = evaluate(model, task, length, count)[task.metric]
        except (RegardError, ValueError):  # too short for the task, or past a learned position
            found[str(length)] = None
    return found


def shifted(model: nn.Module, task: Task, settings: Settings) -> dict[str, float]:
    """The metric on the task's other distributions."""
    others = task.shifted().items()
    return {name: evaluate(model, other, settings.length, settings.tests)[task.metric] for name, other in others}
