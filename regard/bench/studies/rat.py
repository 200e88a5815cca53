"""What chunks of RAT cost in loss, and save in time and memory."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regard.bench.studies.study import Progress, Row, Study, over_seeds, pick, trained
from regard.layers import create

CHUNKS = (1, 4, 16, 64)
LOSS, STEP, BYTES = "char_lm, loss", "one step after 2,048 tokens", "kept of 2,048 tokens"
LENGTH, HELD, MARGIN, SMALLER = 64, 2048, 0.06, 8


def name(chunk: int) -> str:
    """The mechanism with chunks of this length."""
    return f"rat:chunk={chunk}"


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Losses on text, and for one untrained layer the time of a step and the bytes that it needs."""
    runs = trained("char_lm", [name(chunk) for chunk in CHUNKS], steps, seeds, progress, length=LENGTH)
    rows = over_seeds(runs, LOSS, "nats", lambda run: run["metric"])
    for chunk in CHUNKS:
        torch.manual_seed(0)
        layer, spent = create("rat", dim=64, heads=4, chunk=chunk), []
        with torch.no_grad():
            _, state = layer.prefill(torch.randn(1, HELD, 64))
            for turn in range(21):
                start = time.perf_counter()
                layer.step(state, torch.randn(1, 1, 64))
                if turn:  # the first warms up
                    spent.append(1e3 * (time.perf_counter() - start))
        rows.append(Row(name(chunk), STEP, statistics.median(spent), min(spent), max(spent), "ms"))
        size = float(_bytes(state.inner))
        rows.append(Row(name(chunk), BYTES, size, size, size, "bytes"))
    return rows


def verdict(rows: Sequence[Row]) -> bool | None:
    """Chunks of 16 lose at most the margin against single tokens, and keep at most an eighth."""
    one, many = pick(rows, name(1), LOSS), pick(rows, name(16), LOSS)
    held, less = pick(rows, name(1), BYTES), pick(rows, name(16), BYTES)
    if one is None or many is None or held is None or less is None:
        return None
    if less.value * SMALLER > held.value:
        return False
    if one.low is None or one.high is None or many.low is None or many.high is None:
        return None
    if many.high <= one.low + MARGIN:
        return True
    return False if many.low > one.high + MARGIN else None


def _bytes(kept: Any) -> int:
    parts = (getattr(kept, field.name) for field in dataclasses.fields(kept))
    return sum(part.numel() * part.element_size() for part in parts if isinstance(part, Tensor))


STUDY = Study(
    name="rat",
    entry="rat",
    claim="Attention over the ends of chunks of up to 16 tokens models text as well as attention over all, and keeps "
    "that much less.",
    setting=f"2 layers of width 64, characters of a book, {LENGTH} tokens; times are of one layer, their range over 20 "
    "steps",
    rule=f"With chunks of 16 the loss's interval ends at most {MARGIN} nats above the start of that with chunks of 1, "
    f"and at most 1/{SMALLER} of the bytes are kept.",
    steps=300,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
