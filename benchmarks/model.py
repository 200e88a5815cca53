"""Whole models: what `apply` costs, and what streaming_llm saves, on smollm2-135m."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from benchmarks.pairing import Figure, in_turn
from regard.bench.subject import Subject
from regard.bench.text import read
from regard.hf import apply
from regard.methods.cache.streaming_llm import StreamingLLM
from regard.methods.dense import Dense
from regard.methods.method import Method


def run(device: torch.device, quick: bool) -> Iterator[Figure]:
    """Prefill of the shipped book."""
    subject = Subject.open("smollm2-135m", device=str(device))
    ids = subject.tokens(read().content)

    def under(method: Method, length: int) -> Callable[[], None]:
        def work() -> None:
            with apply(subject.model, method):
                subject.read(ids[:length])

        return work

    for length in (512, 2048):
        times = in_turn(
            {"untouched": lambda length=length: subject.read(ids[:length]), "dense": under(Dense(), length)}, 5, device
        )
        ratio = times["dense"] / times["untouched"]
        yield Figure(
            "apply(model, dense) / untouched", f"prefill, {length} tokens", ratio, "x", "at most 1.05", ratio <= 1.05
        )
    length = 4096 if quick else 8192
    times = in_turn(
        {"dense": under(Dense(), length), "streaming": under(StreamingLLM(), length)}, 2, device, twice=False
    )
    ratio = times["streaming"] / times["dense"]
    aim = ("at most 0.65", ratio <= 0.65) if length == 8192 else ()
    yield Figure("streaming_llm / dense", f"prefill, {length} tokens, window 508 + 4 sinks", ratio, "x", *aim)
