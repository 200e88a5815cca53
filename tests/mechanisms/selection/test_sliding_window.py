"""Sliding windows: which keys are read, on one side and on both."""

from __future__ import annotations

import math

import pytest
import torch

from regard.mechanisms import Call
from regard.mechanisms.selection import SlidingWindow


@pytest.mark.parametrize(("causal", "window"), [(True, 1), (True, 3), (False, 1), (False, 3)])
def test_a_query_reads_the_keys_nearer_than_the_window(causal: bool, window: int) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 2, 9, 4, generator=generator, dtype=torch.float64) for _ in range(3))
    tokens = torch.zeros(2, 9, 8, dtype=torch.float64)
    out = SlidingWindow(window=window)(q, k, v, Call(tokens=tokens, memory=tokens, causal=causal))
    for i in range(9):
        near = [j for j in range(9) if abs(i - j) < window and (j <= i or not causal)]
        weights = torch.stack([(q[:, :, i] * k[:, :, j]).sum(-1) / math.sqrt(4) for j in near], -1).softmax(-1)
        torch.testing.assert_close(out[:, :, i], (weights[..., None] * v[:, :, near]).sum(2))


def test_a_window_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"SlidingWindow\.window must be at least 1; got 0\."):
        SlidingWindow(window=0)
