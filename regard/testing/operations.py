"""Floating-point operations, counted while they run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def _scores(q: Any, k: Any, v: Any, *_: object, out_shape: object = None, **__: object) -> int:
    """Operations of one fused attention on CPU, of which torch counts none: products with keys and with values."""
    B, H, N, D = q
    return 2 * B * H * N * k[2] * (D + v[3])


_FUSED = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _scores}


def operations(work: Callable[[], object]) -> int:
    """The floating-point operations of products, convolutions and fused attention, without gradients."""
    with torch.no_grad(), FlopCounterMode(display=False, custom_mapping=_FUSED) as counter:
        work()
    return counter.get_total_flops()
