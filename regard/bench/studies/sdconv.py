"""Hidden characters of a book, told by heads that attend and heads that convolve."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regard.bench.studies.pay_better import encoded
from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick
from regard.bench.tasks import task
from regard.bench.tasks.task import SILENT

OWN, DYNAMIC, PLAIN = "sdconv", "sdconv:span=False", "mha"
WHAT, LENGTH, HIDDEN = "hidden characters, loss", 64, 0.15


def hidden(generator: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
    """Stretches of the book [size, 64] with 15 in 100 characters hidden, which are asked.

    Training draws from the first nine tenths; what is tested, which is drawn more at once, from the last.
    """
    book = task("char_lm")
    ids, _ = book.batch(generator, size, LENGTH, held_out=size > 1000)
    away = torch.rand(ids.shape, generator=generator) < HIDDEN
    return ids.masked_fill(away, book.vocabulary), ids.masked_fill(~away, SILENT)


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Loss of the hidden characters of what was held out."""
    kinds = task("char_lm").vocabulary
    runs = encoded(
        (OWN, DYNAMIC, PLAIN), hidden, steps, seeds, progress, length=LENGTH, answers=kinds, inputs=kinds + 1, ids=True,
        pooled=False, dim=64, batch=32,
    )  # fmt: skip
    return over_seeds(runs, WHAT, "nats", lambda run: run["loss"])


def verdict(rows: Sequence[Row]) -> bool | None:
    """Below both of the others."""
    own = pick(rows, OWN, WHAT)
    return both(above(pick(rows, DYNAMIC, WHAT), own), above(pick(rows, PLAIN, WHAT), own))


STUDY = Study(
    name="sdconv",
    entry="sdconv",
    claim="Kernels made from a span of tokens tell hidden tokens better than kernels made from one, and half of the "
    "heads so replaced better than plain heads.",
    setting=f"2 layers of width 64 with 4 heads, {LENGTH} characters of a book, 15 in 100 of them hidden",
    rule="sdconv's interval lies below that of the kernels made from one token and below mha's.",
    steps=300,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
