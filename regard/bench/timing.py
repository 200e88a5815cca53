"""How long things take, and from which length a method is faster than dense attention."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from statistics import median

import torch

from regard.bench.observe import Sample
from regard.hf import Intervention
from regard.methods.method import Method
from regard.ops import attend

_REPEATS = 3


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall-clock seconds of one piece of work, the GPU's included."""
    _settle(device)
    start = time.perf_counter()
    work()
    _settle(device)
    return time.perf_counter() - start


def lengths(context: int) -> list[int]:
    """Doubling lengths up to the context: where break-even is looked for."""
    found = [context]
    while found[0] % 2 == 0 and found[0] // 2 >= 256:
        found.insert(0, found[0] // 2)
    return found


@torch.no_grad()
def attention(method: Intervention, sample: Sample) -> None:
    """One layer's attention under a method: choosing the keys and attending to them."""
    site, q, k, v = sample.site, sample.q, sample.k, sample.v
    where = method.where(site, q, k)
    attend(
        q,
        k,
        v,
        where=site.base if where is None else site.base & where,
        scale=site.scale,
        views=method.views(site, q, k),
        q_positions=site.q_given,
        k_positions=site.k_given,
    )


def against_dense(method: Method, dense: Method, sample: Sample, context: int) -> list[list[float]]:
    """[length, method's seconds, dense seconds] of one layer's attention, in turn, medians."""
    found = []
    for length in lengths(context):
        part = sample.first(length)
        device = part.q.device
        times: tuple[list[float], list[float]] = ([], [])
        for turn in range(_REPEATS + 1):
            for one, kept in zip((method, dense), times, strict=True):
                spent = seconds(functools.partial(attention, one, part), device)
                if turn:  # the first turn plans the mask and warms the caches
                    kept.append(spent)
        found.append([length, median(times[0]), median(times[1])])
    return found


def break_even(times: list[list[float]], margin: float = 0.95) -> int | None:
    """The shortest length from which on the method takes at most `margin` of dense attention's time; None: none."""
    found = None
    for length, ours, theirs in reversed(times):
        if ours > margin * theirs:
            break
        found = int(length)
    return found


def _settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
