"""One endless text through the cache: does quality last, and does the cost stay flat?"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regard.bench.subject import Subject, cache_of
from regard.hf import apply
from regard.methods.method import Method

CHUNK, BUCKET = 256, 1024


@torch.no_grad()
def stream(
    subject: Subject, ids: Tensor, method: Method, length: int, step: Callable[[str, float], None]
) -> list[dict[str, Any]]:
    """Feed `length` tokens of the text, begun again where it ends, in chunks of 256 that look back through the cache.

    A point for every 1024 tokens: perplexity of those tokens, bytes of keys and values held, milliseconds a token.
    """
    repeats = -(-(length + 1) // len(ids))
    endless = ids.repeat(repeats)[: length + 1]
    points: list[dict[str, Any]] = []
    losses: list[Tensor] = []
    spent, counted, past = 0.0, 0, None
    with apply(subject.model, method) as run:
        for start in range(0, length, CHUNK):
            stop = min(length, start + CHUNK)
            begun = time.perf_counter()
            found = subject.forward(endless[start:stop][None].to(subject.device), past)
            logits, past = found.logits[0].float(), cache_of(found)
            if subject.device.type == "cuda":
                torch.cuda.synchronize(subject.device)
            spent += time.perf_counter() - begun
            targets = endless[start + 1 : stop + 1].to(logits.device)
            losses.append(torch.nn.functional.cross_entropy(logits, targets, reduction="none").cpu())
            counted += stop - start
            step(f"streaming, {stop} of {length} tokens", stop / length)
            if counted >= BUCKET or stop == length:
                mean = torch.cat(losses).double().mean().item()
                points.append(
                    {
                        "tokens": stop,
                        "perplexity": math.exp(mean) if mean < 700 else math.inf,
                        "kv_bytes": run.meter.kv_bytes,
                        "ms_per_token": 1000 * spent / counted,
                    }
                )
                losses, spent, counted = [], 0.0, 0
    return points
