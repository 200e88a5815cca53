"""Which principles of attention a small language model needs, and in how many of its layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from regard.backbones import DecoderLM
from regard.bench import text
from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick
from regard.bench.tasks import SILENT, Task, task
from regard.bench.train.entrant import entrants
from regard.bench.train.evaluate import evaluate
from regard.bench.train.settings import Settings, data_seed
from regard.errors import CheckpointError, MissingExtra
from regard.hf import load
from regard.lens import watch

LENGTH, LAYERS = 64, 4
STANDARD, TAYLOR, STATIC = (f"deconstructed:variant={name}" for name in ("standard", "taylor", "static_emb"))
FIXED = f"deconstructed:variant=rnd_fixed,length={LENGTH}"
OWN, NONE = "deconstructed:variant=nonapprox", "deconstructed:variant=mlp"
OTHERS = (TAYLOR, STATIC, FIXED, OWN, NONE)
UNIFORM = "char_lm, loss"
HYBRID = "char_lm, loss with standard attention in the even layers"
SKIPPED = "char_lm, loss of that hybrid without its odd layers"
NEAR = 1.1  # how many times standard attention's loss still counts as close to it
CHECKPOINT, SHOWN, READ = "smollm2-135m", (0, 9, 19, 29), 512


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """The losses of uniform stacks, of hybrids and of these without their odd layers; and a real model's indicators."""
    settings = Settings(steps=steps, seeds=seeds, length=LENGTH, layers=LAYERS, batch=16)
    whole = seeds * (1 + 2 * len(OTHERS))
    runs: list[Mapping[str, Any]] = []
    for seed in range(seeds):
        for at, name in enumerate((STANDARD, *OTHERS)):
            done = seed * (1 + 2 * len(OTHERS)) + max(0, 2 * at - 1)
            progress(f"{name}, seed {seed}", done / whole)
            told = {"mechanism": name, UNIFORM: _loss(trained(name, settings, seed), settings)}
            if name != STANDARD:
                progress(f"{name} as a hybrid, seed {seed}", (done + 1) / whole)
                hybrid = trained(f"{STANDARD}/{name}", settings, seed)
                told[HYBRID] = _loss(hybrid, settings)
                told[SKIPPED] = _loss(hybrid.without(range(1, LAYERS, 2)), settings)
            runs.append(told)
    rows = []
    for what in (UNIFORM, HYBRID, SKIPPED):
        rows += over_seeds(runs, what, "nats", lambda run, what=what: run.get(what))
    return [*rows, *pretrained()]


def trained(name: str, settings: Settings, seed: int, given: Task | None = None) -> DecoderLM:
    """The model of one mechanism, or of several that take turns, after all steps."""
    data = task("char_lm") if given is None else given
    model = entrants([name])[0].model(data, settings, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=settings.rate, weight_decay=settings.decay, betas=(0.9, 0.95))
    for step in range(settings.steps):
        generator = torch.Generator().manual_seed(data_seed(seed, step))
        ids, targets = data.batch(generator, settings.batch, settings.length)
        optimiser.param_groups[0]["lr"] = settings.rate_at(step)
        optimiser.zero_grad()
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten(), ignore_index=SILENT)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
        optimiser.step()
    return model


def pretrained() -> list[Row]:
    """The indicators of some layers of a real checkpoint, where it has been pulled."""
    try:
        loaded = load(CHECKPOINT)
    except (CheckpointError, MissingExtra):
        return []
    ids = loaded.processor(text.read().content[:8000], return_tensors="pt")["input_ids"][:, :READ]
    rows = []
    told = watch(loaded.model, ids)
    for layer in SHOWN:
        one = told[layer]
        assert one is not None
        figures = {
            "entropy": (one.entropy, "nats"),
            "concentration": (one.concentration, ""),
            "head diversity": (one.diversity, ""),
            "sink": (one.sink, ""),
            **{f"local focus {n}": (value, "") for n, value in enumerate(one.local)},
        }
        for what, (value, unit) in figures.items():
            rows.append(Row("softmax", f"{CHECKPOINT}, layer {layer}, {what}", value, None, None, unit))
    return rows


def verdict(rows: Sequence[Row]) -> bool | None:
    """The order of the uniform stacks, every hybrid near standard attention and below its uniform form, and every
    hybrid without its odd layers above that form."""
    uniform = {name: pick(rows, name, UNIFORM) for name in (STANDARD, TAYLOR, STATIC, FIXED, OWN, NONE)}
    order = [(TAYLOR, STANDARD), (STATIC, TAYLOR), (FIXED, TAYLOR), (OWN, STATIC), (OWN, FIXED)]
    order += [(NONE, name) for name in (STANDARD, TAYLOR, STATIC, FIXED, OWN)]
    found = [above(uniform[worse], uniform[better]) for worse, better in order]
    for name in OTHERS:
        hybrid, skipped = pick(rows, name, HYBRID), pick(rows, name, SKIPPED)
        found += [_near(hybrid, uniform[STANDARD]), above(uniform[name], hybrid), above(skipped, uniform[name])]
    return both(*found)


def _near(one: Row | None, other: Row | None) -> bool | None:
    """Whether a loss is at most `NEAR` times another, to the ends of both intervals."""
    if one is None or one.low is None or one.high is None or other is None or other.low is None or other.high is None:
        return None
    if one.high <= NEAR * other.low:
        return True
    return False if one.low > NEAR * other.high else None


def _loss(model: DecoderLM, settings: Settings) -> float:
    return evaluate(model, task("char_lm"), settings.length, settings.tests)["loss"]


STUDY = Study(
    name="deconstructed",
    entry="deconstructed",
    claim="Text needs tokens to be mixed; the form of the weights, their dependence on the text and fresh queries and "
    "keys matter less, and hardly at all where every other layer keeps standard attention.",
    setting=f"{LAYERS} layers of width 64, characters of a book, {LENGTH} tokens, 16 texts a step; and {CHECKPOINT} on "
    f"the first {READ} tokens of the book",
    rule="The intervals of the uniform stacks are in the order standard, taylor, then static_emb and rnd_fixed, then "
    "nonapprox, and mlp above all; every hybrid ends at most a tenth above standard attention and below its uniform "
    "form; and every hybrid without its odd layers lies above that form.",
    steps=240,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
