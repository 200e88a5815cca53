"""One training: one mechanism and one seed."""

from __future__ import annotations

import json
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regard.backbones import DecoderLM
from regard.bench.memory import peak
from regard.bench.tasks import SILENT, Task
from regard.bench.train import checkpoint
from regard.bench.train.entrant import Entrant
from regard.bench.train.evaluate import afar, evaluate, shifted
from regard.bench.train.settings import Settings, data_seed

_MEASURED = 2  # the step whose peak is measured: the optimiser has its state by then


def run(
    entrant: Entrant,
    task: Task,
    settings: Settings,
    seed: int,
    *,
    device: torch.device,
    position: str | None = None,
    path: Path | None = None,
    resume: bool = False,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Any]:
    """Train one mechanism from one seed and test it.

    With `path` a checkpoint is kept there; `resume` goes on from it, to the same end as without the interruption, where
    it is of the same training: the same mechanism, seed, `position`, task and settings.

    Raises: CheckpointError where the checkpoint can't be read.
    """
    model = entrant.model(task, settings, seed).to(device).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.rate, weight_decay=settings.decay, betas=(0.9, 0.95))
    mark = json.dumps([entrant.label, seed, position, task.label, {**settings.plain, "seeds": None}])
    state = checkpoint.load(path, model, optimiser, mark) if resume and path is not None else None
    state = state or {"step": 0, "curve": [], "seconds": [], "peak": None, "broke": None}
    while state["step"] < settings.steps and state["broke"] is None:
        _measured(model, optimiser, task, settings, seed, device, state)
        step = state["step"]
        if step % settings.every == 0 or step == settings.steps:
            told = evaluate(model, task, settings.length, settings.tests // 2)
            state["curve"].append([step, told["loss"], told[task.metric], math.fsum(state["seconds"])])
            if path is not None:
                checkpoint.save(path, model, optimiser, mark, state)
        progress(step / settings.steps)
    return _told(entrant, model, task, settings, seed, state)


def _measured(
    model: DecoderLM, optimiser: torch.optim.Optimizer, task: Task, settings: Settings, seed: int,
    device: torch.device, state: dict[str, Any],
) -> None:  # fmt: skip
    """One step, and what it took."""

    def once() -> None:
        start = time.perf_counter()
        loss = _step(model, optimiser, task, settings, seed, state["step"], device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        state["seconds"].append(time.perf_counter() - start)
        if not math.isfinite(loss):
            state["broke"] = state["step"] + 1

    if state["step"] == _MEASURED:
        with peak(device) as most:
            once()
        state["peak"] = most.bytes
    else:
        once()
    state["step"] += 1


def _step(
    model: DecoderLM,
    optimiser: torch.optim.Optimizer,
    task: Task,
    settings: Settings,
    seed: int,
    step: int,
    device: torch.device,
) -> float:
    """The loss of one step. What is random in it depends on the seed and the step's number alone."""
    generator = torch.Generator().manual_seed(data_seed(seed, step))
    ids, targets = task.batch(generator, settings.batch, settings.length)
    own = torch.Generator(device).manual_seed(data_seed(seed, step))
    for group in optimiser.param_groups:
        group["lr"] = settings.rate_at(step)
    logits = model(ids.to(device), generator=own)
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.to(device).flatten(), ignore_index=SILENT)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
    optimiser.step()
    return loss.item()


def _told(
    entrant: Entrant, model: DecoderLM, task: Task, settings: Settings, seed: int, state: dict[str, Any]
) -> dict[str, Any]:
    """The row of one training."""
    broke = state["broke"] is not None
    end = None if broke else evaluate(model, task, settings.length, settings.tests)
    first = next((point for point in state["curve"] if task.solved(point[2])), None)
    return {
        "mechanism": entrant.label,
        "seed": seed,
        "metric": None if end is None else end[task.metric],
        "loss": None if end is None else end["loss"],
        "broke": state["broke"],
        "steps_to_target": first and first[0],
        "seconds_to_target": first and first[3],
        "seconds": math.fsum(state["seconds"]),
        "step_ms": 1000 * statistics.median(state["seconds"]),
        "peak_bytes": state["peak"],
        "curve": [point[:3] for point in state["curve"]],
        "lengths": {} if broke else afar(model, task, settings),
        "shifts": {} if broke else shifted(model, task, settings),
    }
