"""The most memory a piece of work held at once."""

from __future__ import annotations

import ctypes
import gc
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


@dataclass
class Peak:
    """Bytes above what was held at the start; None where this system does not tell."""

    bytes: int | None = None


@contextmanager
def peak(device: torch.device) -> Iterator[Peak]:
    """Measure the peak within the block: the GPU allocator's, or this process' resident memory on Linux."""
    found = Peak()
    gc.collect()
    _give_back()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield found
        found.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    start = _resident("VmRSS") if _reset() else None
    yield found
    end = _resident("VmHWM") if start is not None else None
    if start is not None and end is not None:
        found.bytes = max(0, end - start)


def _give_back() -> None:
    """Return freed memory to the system: kept by the allocator, it would hide what the work takes again."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def _reset() -> bool:
    try:
        _RESET.write_text("5")  # sets the high-water mark back to what is resident now
    except OSError:
        return False
    return True


def _resident(field: str) -> int | None:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
