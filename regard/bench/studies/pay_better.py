"""Classifiers whose attention has no value map, no key map, or a map from token to token."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from regard.backbones.block import SwiGLU
from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick
from regard.bench.tasks.task import SILENT
from regard.bench.train.entrant import entrants
from regard.bench.train.settings import Settings
from regard.mechanisms import Layer

MHA, OPTIMISED, EFFICIENT = "mha", "optimised_attention", "efficient_slices"
SUPER = {8: "super_attention:length=8", 16: "super_attention:length=16"}
DIGITS, WORDS, TIME = "digits, accuracy", "words, accuracy", "digits, processor time of a step over mha's"
DIM, HEADS, BATCH, TESTS, MARGIN = 48, 4, 64, 2048, 2.0

Draw = Callable[[torch.Generator, int], tuple[Tensor, Tensor]]
_FONT = (
    "01110 10001 10011 10101 11001 10001 01110", "00100 01100 00100 00100 00100 00100 01110",
    "01110 10001 00001 00110 01000 10000 11111", "01110 10001 00001 00110 00001 10001 01110",
    "00010 00110 01010 10010 11111 00010 00010", "11111 10000 11110 00001 00001 10001 01110",
    "00110 01000 10000 11110 10001 10001 01110", "11111 00001 00010 00100 01000 01000 01000",
    "01110 10001 10001 01110 10001 10001 01110", "01110 10001 10001 01111 00001 00010 01100",
)  # fmt: skip


class Encoder(nn.Module):
    """Two blocks around attention layers that see both sides, and an answer for the sequence or for each token.

    Shapes: features [B, N, inputs] or, without `inputs`, ids [B, N], to logits [B, answers], or [B, N, answers] where
    not `pooled`.
    """

    def __init__(
        self, layers: Sequence[Layer], length: int, answers: int, inputs: int, ids: bool, pooled: bool
    ) -> None:
        super().__init__()
        dim = layers[0].dim
        self.read = nn.Embedding(inputs, dim) if ids else nn.Linear(inputs, dim)
        self.places = nn.Parameter(torch.randn(length, dim) * 0.1)
        self.maps = nn.ModuleList(SwiGLU(dim, 2 * dim) for _ in layers)
        self.norms = nn.ModuleList(nn.RMSNorm(dim) for _ in range(2 * len(layers) + 1))
        self.head = nn.Linear(dim, answers)
        self.layers = nn.ModuleList(layers)
        self.pooled = pooled

    def forward(self, given: Tensor) -> Tensor:
        x = self.read(given) + self.places
        for n, (layer, ffn) in enumerate(zip(self.layers, self.maps, strict=True)):
            x = x + layer(self.norms[2 * n](x))
            x = x + ffn(self.norms[2 * n + 1](x))
        x = self.norms[-1](x)
        return self.head(x.mean(1) if self.pooled else x)


def encoded(
    mechanisms: Sequence[str], draw: Draw, steps: int, seeds: int, progress: Progress, *, length: int, answers: int,
    inputs: int, ids: bool = False, pooled: bool = True, dim: int = DIM, heads: int = HEADS, batch: int = BATCH,
    rate: float = 2e-3,
) -> list[dict[str, Any]]:  # fmt: skip
    """Trainings of an encoder around each mechanism, all on the same data; what is silent is not asked.

    A row has the `mechanism`, the `accuracy` in % and `loss` in nats of data drawn afresh, and `ms`, the processor's
    time of the median step.
    """
    found: list[dict[str, Any]] = []
    names, plan = entrants(mechanisms, "none"), Settings(steps=steps, rate=rate)
    for number, (seed, entrant) in enumerate((seed, entrant) for seed in range(seeds) for entrant in names):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [entrant.layer(dim, heads) for _ in range(2)]
            torch.manual_seed(1000 + seed)  # all but the attention starts alike
            model = Encoder(layers, length, answers, inputs, ids, pooled)
        optimiser = torch.optim.AdamW(model.parameters(), lr=rate)
        spent = []
        for step in range(steps):
            given, asked = draw(torch.Generator().manual_seed(seed * 2**20 + step), batch)
            for group in optimiser.param_groups:
                group["lr"] = plan.rate_at(step)
            start = time.process_time()
            loss = _loss(model(given), asked)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            spent.append(time.process_time() - start)
        progress(f"{entrant.label}, seed {seed}", (number + 1) / (seeds * len(names)))
        given, asked = draw(torch.Generator().manual_seed(2**40), TESTS)
        with torch.no_grad():
            told = model.eval()(given)
        right = told.argmax(-1)[asked != SILENT] == asked[asked != SILENT]
        found.append(
            {
                "mechanism": entrant.label,
                "accuracy": 100 * right.double().mean().item(),
                "loss": _loss(told, asked).item(),
                "ms": 1000 * statistics.median(spent),
            }
        )
    return found


def _loss(told: Tensor, asked: Tensor) -> Tensor:
    return nn.functional.cross_entropy(told.flatten(0, -2), asked.flatten(), ignore_index=SILENT)


def digits(generator: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
    """Digits of a font of 5 by 7 dots, moved and blurred in an image of 8 rows with noise: [size, 8, 8]."""
    dots = torch.tensor([[[float(dot) for dot in row] for row in glyph.split()] for glyph in _FONT])
    asked = torch.randint(10, (size,), generator=generator)
    canvas = torch.zeros(size, 10, 10)
    down, right = torch.randint(4, (size,), generator=generator), torch.randint(6, (size,), generator=generator)
    rows = down[:, None, None] + torch.arange(7)[:, None]
    columns = right[:, None, None] + torch.arange(5)
    canvas[torch.arange(size)[:, None, None], rows, columns] = dots[asked]
    strength = torch.rand(size, 1, 1, generator=generator) + 0.5
    return canvas[:, 1:9, 1:9] * strength + 0.3 * torch.randn(size, 8, 8, generator=generator), asked


def words(generator: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
    """16 words, of which some praise (0 to 4), some blame (5 to 9), 10 turns the next one round and others say nothing.

    Asked is whether there is more praise than blame.
    """
    ids = torch.randint(16, (size, 16), generator=generator)
    said = (ids < 5).long() - ((ids >= 5) & (ids < 10)).long()
    turned = torch.where(torch.roll(ids, 1, 1) == 10, -said, said)
    turned[:, 0] = said[:, 0]
    return ids, (turned.sum(1) > 0).long()


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Accuracy of both tasks, and time."""
    rows, runs = [], []
    for n, (what, length) in enumerate(((DIGITS, 8), (WORDS, 16))):
        told = lambda doing, done, n=n: progress(doing, (n + done) / 2)  # noqa: E731
        own = (MHA, OPTIMISED, EFFICIENT, SUPER[length])
        if what == DIGITS:
            runs = found = encoded(own, digits, steps, seeds, told, length=8, answers=10, inputs=8)
        else:
            found = encoded(own, words, steps, seeds, told, length=16, answers=2, inputs=16, ids=True)
        rows += over_seeds(found, what, "%", lambda run: run["accuracy"])
    base = [run["ms"] for run in runs if run["mechanism"] == MHA]
    for name in dict.fromkeys(run["mechanism"] for run in runs):
        ratios = [run["ms"] / ms for run, ms in zip((r for r in runs if r["mechanism"] == name), base, strict=True)]
        rows.append(Row(str(name), TIME, statistics.fmean(ratios), min(ratios), max(ratios), "x"))
    return rows


def level(own: Row | None, other: Row | None, margin: float) -> bool | None:
    """Whether one accuracy is at most `margin` points below the other, to the ends of both intervals."""
    if other is None or other.low is None or other.high is None:
        return None
    return above(own, replace(other, low=other.low - margin, high=other.high - margin))


def verdict(rows: Sequence[Row]) -> bool | None:
    """None of the three falls behind on either task."""
    return both(
        *(
            level(pick(rows, name, what), pick(rows, MHA, what), MARGIN)
            for what, length in ((DIGITS, 8), (WORDS, 16))
            for name in (OPTIMISED, EFFICIENT, SUPER[length])
        )
    )


STUDY = Study(
    name="pay_better",
    entry="pay_better_attention",
    claim="Attention without a value map, without key and value maps, and with a map from token to token instead "
    "classifies as well as multi-head attention.",
    setting=f"2 layers of width {DIM}; digits of a font with noise as 8 rows of 8 dots, and 16 words of praise and "
    "blame, some turned round; both are made here, in place of the paper's data",
    rule=f"The interval of each of the three starts at most {MARGIN:g} points below the end of mha's, on both tasks.",
    steps=200,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
