"""On what and with which versions something was measured."""

from __future__ import annotations

import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ("regard", "torch", "transformers", "numpy")


def machine(device: torch.device) -> dict[str, object]:
    """Processor, threads, device and system."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
    return {
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": name,
        "system": f"{platform.system()} {platform.release()}",
    }


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the figures."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    found["torch"] = torch.__version__
    return found


def _processor() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()
