"""How a check says that a claim is not true."""

from __future__ import annotations

import torch
from torch import Tensor


class Failed(AssertionError):
    """A claim that did not hold; its text has the numbers."""


def same(what: str, got: Tensor, want: Tensor, tolerance: float = 1e-9) -> None:
    """Raise Failed unless two tensors agree to `tolerance` of the larger one's size, at least 1; NaN never agrees."""
    got, want = got.detach(), want.detach()
    if got.shape != want.shape:
        raise Failed(f"{what}: shape {list(got.shape)} instead of {list(want.shape)}.")
    if not got.numel():
        return
    allowed = tolerance * max(1.0, float(want.abs().max()))
    off = float((got - want).abs().max())
    if not off <= allowed:
        raise Failed(f"{what}: differs by {off:.3g}, allowed {allowed:.3g}.")


def different(what: str, a: Tensor, b: Tensor, least: float = 1e-9) -> None:
    """Raise Failed unless two tensors differ somewhere by more than `least`."""
    off = float((a - b).detach().abs().max()) if a.numel() else 0.0
    if not off > least:
        raise Failed(f"{what}: nothing changed (largest difference {off:.3g}).")


def finite(what: str, x: Tensor) -> None:
    """Raise Failed where a tensor holds NaN or an infinity."""
    bad = ~torch.isfinite(x)
    if bad.any():
        raise Failed(f"{what}: {int(bad.sum())} of {x.numel()} numbers are not finite.")
