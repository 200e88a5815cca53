"""Relational heads learn from fewer samples whether two objects are the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard.bench.studies.study import Progress, Row, Study, above, over_seeds, pick
from regard.bench.train.entrant import split
from regard.layers.create import build, parse
from regard.mechanisms import Layer

DUAL, PLAIN = "dual_attention:symbols=positional,length=2", "dual_attention:relational_heads=0"
DIM, HEADS, FEATURES, OBJECTS, BATCH, RATE = 32, 4, 16, 64, 64, 2e-3
FEW, MANY = 200, 4000


def games(count: int, objects: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two objects each, and whether they are the same; half of the answers are yes.

    Shapes: objects [O, F]; result [count, 2, F] and [count].
    """
    same = torch.rand(count, generator=generator) < 0.5
    first = torch.randint(len(objects), (count,), generator=generator)
    other = (first + torch.randint(1, len(objects), (count,), generator=generator)) % len(objects)
    return objects[torch.stack([first, torch.where(same, first, other)], 1)], same.long()


class Judge(nn.Module):
    """Two blocks around attention layers, whose maps are as wide as leaves `size` parameters, and a yes or no.

    Shapes: objects [B, 2, F] to logits [B, 2].
    Raises: ValueError where attention alone has more parameters.
    """

    def __init__(self, layers: Sequence[Layer], features: int, size: int) -> None:
        super().__init__()
        dim = layers[0].dim
        self.read, self.places = nn.Linear(features, dim), nn.Parameter(torch.randn(2, dim) * 0.3)
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.LayerNorm(dim) for _ in range(2 * len(layers)))
        self.answer = nn.Linear(2 * dim, 2)
        left = (size - sum(p.numel() for p in self.parameters())) // len(layers) - dim
        hidden = left // (2 * dim + 1)
        if hidden < 1:
            raise ValueError(f"Judge needs room for its maps within {size} parameters.")
        self.maps = nn.ModuleList(
            nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim)) for _ in layers
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(x) + self.places
        for n, (layer, map_) in enumerate(zip(self.layers, self.maps, strict=True)):
            x = x + layer(self.norms[2 * n](x))
            x = x + map_(self.norms[2 * n + 1](x))
        return self.answer(x.flatten(1))


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Accuracy on objects that were never seen, after training on few and on many games."""
    runs: list[dict[str, Any]] = []
    plan = [(seed, count, text) for seed in range(seeds) for count in (FEW, MANY) for text in (DUAL, PLAIN)]
    for number, (seed, count, text) in enumerate(plan):
        progress(f"{text} on {count} games, seed {seed}", number / len(plan))
        runs.append({"mechanism": text, "count": count, "right": _right(text, count, steps, seed)})
    rows = []
    for count in (FEW, MANY):
        own = [run for run in runs if run["count"] == count]
        rows += over_seeds(own, what(count), "%", lambda run: run["right"])
    return rows


def what(count: int) -> str:
    """What a row is called."""
    return f"accuracy on new objects after {count:,} games"


def _right(text: str, count: int, steps: int, seed: int) -> float:
    source = torch.Generator().manual_seed(seed)
    objects = torch.randn(2 * OBJECTS, FEATURES, generator=source)
    x, y = games(count, objects[:OBJECTS], source)
    new, answers = games(2000, objects[OBJECTS:], source)
    model = judge(text, seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE, weight_decay=0.01)
    for _ in range(steps):
        some = torch.randint(count, (BATCH,), generator=source)
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x[some]), y[some]).backward()
        optimiser.step()
    with torch.no_grad():
        return 100 * float((model.eval()(new).argmax(1) == answers).double().mean())


def judge(text: str, seed: int, size: int = 28_000) -> Judge:
    """A judge around the layers of a mechanism, from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        named = next(parse(one) for one in split(text))
        made = [build(named.kind, named.settings, {"dim": DIM, "heads": HEADS}) for _ in range(2)]
        return Judge([layer for layer in made if isinstance(layer, Layer)], FEATURES, size)


def verdict(rows: Sequence[Row]) -> bool | None:
    """Better than plain attention after few games."""
    return above(pick(rows, DUAL, what(FEW)), pick(rows, PLAIN, what(FEW)))


STUDY = Study(
    name="dual_attention",
    entry="dual_attention",
    claim="With relational heads fewer samples are enough to tell relations of objects that were never seen than with "
    "ordinary ones at equal size.",
    setting=f"are two objects the same? {OBJECTS} random objects to learn from and "
    f"{OBJECTS} others to be asked; 2 layers of width {DIM}, 28,000 parameters each; relational_heads=0 is ordinary "
    "attention",
    rule=f"After {FEW} games the interval of two relational heads in four lies above that of none.",
    steps=300,
    seeds=5,
    measure=measure,
    verdict=verdict,
)
