"""Heads told apart by an embedding each, against heads with maps of their own and against one head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regard.bench.studies.pay_better import encoded, level
from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick

MHE, MHA, ONE = "mhe", "mha", "sqa:q_heads=1,kv_heads=1"
WHAT = "pairs, accuracy"
KINDS, LENGTH, DIM, HEADS, MARGIN = 8, 16, 64, 8, 5.0


def pairs(generator: torch.Generator, size: int) -> tuple[Tensor, Tensor]:
    """16 tokens of four families of 8 and noise; asked is in how many of the families two tokens are of one kind.

    Shapes: ids [size, 16], below 4 * 8 + 8; answers [size], 0 to 4.
    """
    ids = torch.randint(4 * KINDS, 5 * KINDS, (size, LENGTH), generator=generator)
    order = torch.rand(size, LENGTH, generator=generator).argsort(1)
    asked = torch.zeros(size, dtype=torch.int64)
    for family in range(4):
        first = torch.randint(KINDS, (size,), generator=generator)
        other = (first + torch.randint(1, KINDS, (size,), generator=generator)) % KINDS
        alike = torch.rand(size, generator=generator) < 0.5
        made = torch.stack([first, torch.where(alike, first, other)], 1) + family * KINDS
        ids.scatter_(1, order[:, 2 * family : 2 * family + 2], made)
        asked += alike
    return ids, asked


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Accuracy of sequences drawn afresh."""
    runs = encoded(
        (MHE, MHA, ONE), pairs, steps, seeds, progress, length=LENGTH, answers=5, inputs=5 * KINDS, ids=True, dim=DIM,
        heads=HEADS,
    )  # fmt: skip
    return over_seeds(runs, WHAT, "%", lambda run: run["accuracy"])


def verdict(rows: Sequence[Row]) -> bool | None:
    """Not far below many heads, and above one."""
    own, many, one = (pick(rows, name, WHAT) for name in (MHE, MHA, ONE))
    return both(level(own, many, MARGIN), above(own, one))


STUDY = Study(
    name="mhe",
    entry="mhe",
    claim="Heads that share one projection and differ by embeddings classify nearly as well as heads with their own, "
    "and better than one head.",
    setting=f"2 layers of width {DIM} with {HEADS} heads, 16 tokens, counting in how many of four families there is a "
    "pair; the one head is as wide as a head of the others",
    rule=f"mhe's interval starts at most {MARGIN:g} points below the end of mha's and lies above the one head's.",
    steps=400,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
