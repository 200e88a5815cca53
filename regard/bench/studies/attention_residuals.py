"""Attention over the layers keeps what they read at one size, and their gradients even."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from regard.backbones.residuals import ResidualLM
from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick
from regard.bench.tasks import Task, task
from regard.bench.train.evaluate import evaluate
from regard.bench.train.settings import Settings, data_seed
from regard.layers import create
from regard.layers.create import parse

PLAIN, FULL = "attention_residuals:norm=sum", "attention_residuals"
GROWTH, SPREAD, LOSS = "size read, last over first", "gradients over depth, spread", "char_lm, loss"
LAYERS = 12


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """How sizes and gradients run over depth after training, and the held-out loss."""
    given = Settings(steps=steps, seeds=seeds, length=48, batch=8, dim=32, heads=2, layers=LAYERS, tests=64)
    names, runs = (PLAIN, FULL), []
    for seed in range(seeds):
        for at, name in enumerate(names):
            runs.append({"mechanism": name, **_run(name, task("char_lm"), given, seed)})
            progress(f"{name}, seed {seed}", (seed * len(names) + at + 1) / (seeds * len(names)))
    figures = ((GROWTH, "x", "growth"), (SPREAD, "%", "spread"), (LOSS, "nats", "loss"))
    return [row for what, unit, key in figures for row in over_seeds(runs, what, unit, lambda run, key=key: run[key])]


def _run(name: str, text: Task, given: Settings, seed: int) -> Mapping[str, Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [create("rope", dim=given.dim, heads=given.heads) for _ in range(given.layers)]
        depth = create(
            "attention_residuals", dim=given.dim, heads=given.heads, layers=2 * given.layers + 1, **parse(name).settings
        )
        start = torch.Generator().manual_seed(seed)
        model = ResidualLM(text.vocabulary, given.dim, layers, depth=depth, generator=start).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=given.rate, weight_decay=given.decay, betas=(0.9, 0.95))
    for step in range(given.steps):
        for group in optimiser.param_groups:
            group["lr"] = given.rate_at(step)
        optimiser.zero_grad(set_to_none=True)
        _loss(model, text, given, data_seed(seed, step))[0].backward()
        nn.utils.clip_grad_norm_(model.parameters(), given.clip)
        optimiser.step()
    _, read, slopes = _loss(model, text, given, data_seed(seed, given.steps), along=True)
    spread = 100 * statistics.pstdev(slopes) / statistics.fmean(slopes)
    return {
        "growth": read[-1] / read[0],
        "spread": spread,
        "loss": evaluate(model, text, given.length, given.tests)["loss"],
    }


def _loss(
    model: ResidualLM, text: Task, given: Settings, number: int, *, along: bool = False
) -> tuple[torch.Tensor, list[float], list[float]]:
    """The loss of one batch; and, where asked, the size of what each sub-layer read and of its output's gradient."""
    ids, targets = text.batch(torch.Generator().manual_seed(number), given.batch, given.length)
    trace = model.trace(ids)
    loss = nn.functional.cross_entropy(trace.logits.flatten(0, 1), targets.flatten())
    if not along:
        return loss, [], []
    slopes = torch.autograd.grad(loss, trace.given, retain_graph=True)
    return loss, [_size(x) for x in trace.read], [_size(x) for x in slopes]


def _size(x: torch.Tensor) -> float:
    return float(x.detach().square().mean().sqrt())


def verdict(rows: Sequence[Row]) -> bool | None:
    """Full attention residuals grow less and spread less than the plain sum, and their loss is not above its."""
    plain, own = ({what: pick(rows, name, what) for what in (GROWTH, SPREAD, LOSS)} for name in (PLAIN, FULL))
    worse = above(own[LOSS], plain[LOSS])
    return both(above(plain[GROWTH], own[GROWTH]), above(plain[SPREAD], own[SPREAD]), worse is not True)


STUDY = Study(
    name="attention_residuals",
    entry="attention_residuals",
    claim="With attention over the layers what they read keeps its size, gradients are even, and the loss is no worse.",
    setting=f"{LAYERS} layers of width 32, characters of a book, 48 tokens; norm=sum is the plain residual, whose maps "
    "are not started smaller with depth; the spread is the standard deviation over the mean, of the gradients of the "
    "sub-layers' outputs",
    rule="attention_residuals' intervals of size and spread lie below the plain residual's, and its loss's not above.",
    steps=80,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
