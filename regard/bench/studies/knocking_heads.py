"""A transform that all heads share, started as the identity and at random, beside the host that it is added to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from regard.backbones import DecoderLM
from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick
from regard.bench.tasks import Task, task
from regard.bench.train.entrant import Entrant, entrants
from regard.bench.train.evaluate import evaluate
from regard.bench.train.settings import Settings
from regard.bench.train.training import train

HOST, OWN, RANDOM = "gqa:kv_heads=4", "knocking_heads:kv_heads=4", "knocking_heads:kv_heads=4,init=random"
WHAT, FIRST, RISE = "char_lm, loss", "char_lm, loss before training", "largest rise of the loss at 8 times the rate"
LENGTH, HEADS, BATCH = 64, 8, 16


class Hosted(Entrant):
    """A mechanism whose model starts with the weights of its host's where they have the same names."""

    def model(self, task: Task, settings: Settings, seed: int) -> DecoderLM:
        made, host = super().model(task, settings, seed), entrants([HOST])[0]
        made.load_state_dict(Entrant.model(host, task, settings, seed).state_dict(), strict=False)
        return made


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Loss before and after training, and how far it rises on the way where the learning rate is too high."""
    runs, book, given = [], task("char_lm"), Settings()
    hosted = [Hosted(one.label, one.layer) for one in entrants([HOST, OWN, RANDOM])]
    for n, rate in enumerate((2e-3, 1.6e-2)):
        given = Settings(
            steps=steps, seeds=seeds, length=LENGTH, heads=HEADS, batch=BATCH, rate=rate, tests=128,
            every=max(1, steps // 20),
        )  # fmt: skip
        told = lambda doing, done, n=n: progress(doing, (n + done) / 2)  # noqa: E731
        runs.append(train(book, hosted, given, measure_floor=False, progress=told)["runs"])
    start = [
        {"mechanism": one.label, "loss": evaluate(one.model(book, given, seed), book, LENGTH, given.tests)["loss"]}
        for seed in range(seeds)
        for one in hosted
    ]
    rows = over_seeds(start, FIRST, "nats", lambda run: run["loss"])
    rows += over_seeds(runs[0], WHAT, "nats", lambda run: run["metric"])
    return rows + over_seeds(runs[1], RISE, "nats", _rise)


def _rise(run: Mapping[str, Any]) -> float:
    losses = [point[1] for point in run["curve"]]
    return max([0.0, *(after - before for before, after in pairwise(losses))])


def verdict(rows: Sequence[Row]) -> bool | None:
    """Below the host, and the random start above the identity."""
    own = pick(rows, OWN, WHAT)
    return both(above(pick(rows, HOST, WHAT), own), above(pick(rows, RANDOM, WHAT), own))


STUDY = Study(
    name="knocking_heads",
    entry="knocking_heads",
    claim="A transform of the values that all heads share models text better than its host, if it starts as the "
    "identity.",
    setting=f"2 layers of width 64 with {HEADS} heads and 4 key heads, characters of a book, {LENGTH} tokens, from the "
    "same weights",
    rule="The interval of the identity's loss lies below the host's and below the random start's.",
    steps=250,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
