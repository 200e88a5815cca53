"""Timing several ways of doing one thing, in turn, so that a machine's drift meets all of them alike."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from statistics import median

import torch


@dataclass(frozen=True)
class Figure:
    """One measured figure: what, in which setting, the value with its unit, and what was aimed for."""

    what: str
    setting: str
    value: float
    unit: str
    aim: str = ""
    reached: bool | None = None

    def plain(self) -> dict[str, object]:
        return asdict(self)


def in_turn(
    ways: dict[str, Callable[[], object]], repeats: int, device: torch.device, *, twice: bool = True
) -> dict[str, float]:
    """Median seconds of each way, in turn `repeats` times; `twice`: run each way twice a turn, count the second.

    The first puts caches and allocator into the state that the way itself leaves, not the one its neighbour left.
    """
    spent: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            if twice:
                way()
            settle(device)
            start = time.perf_counter()
            way()
            settle(device)
            spent[name].append(time.perf_counter() - start)
    return {name: median(times) for name, times in spent.items()}


def in_processes(task: Callable[..., dict[str, float]], *args: object, processes: int = 5) -> list[dict[str, float]]:
    """What a measurement says in each of several fresh processes.

    Where a process's memory lies in the caches changes its timings by a quarter and lasts as long as the process.
    """
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, max_tasks_per_child=1) as pool:
        return [pool.submit(task, *args).result() for _ in range(processes)]


def settle(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def qkv(N: int, dtype: torch.dtype, device: torch.device, H: int = 8, D: int = 64) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values [1, H, N, D] drawn with a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(1, H, N, D, generator=generator).to(device, dtype) for _ in range(3))
