"""`attend` beside FlexAttention and SDPA, H=8, D=64."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benchmarks.pairing import Figure, in_processes, in_turn, qkv
from regard.masks import causal, sinks, window
from regard.ops import attend


def windowed(N: int, dtype: torch.dtype, device: torch.device) -> dict[str, float]:
    """Median seconds of causal & (window 512 | 4 sinks) on each engine."""
    mask = causal() & (window(512) | sinks(4))

    def mod(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return (j <= i) & ((i - j < 512) | (j < 4))

    compiled = torch.compile(flex_attention, dynamic=False)
    planned = create_block_mask(mod, None, None, N, N, device=str(device))
    q, k, v = qkv(N, dtype, device)
    ways = {
        "flex": lambda: compiled(q, k, v, block_mask=planned),
        "tiles": lambda: attend(q, k, v, where=mask, engine="tiles"),
        "auto": lambda: attend(q, k, v, where=mask),
        "sdpa causal": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    }
    return in_turn(ways, 9 if N <= 4096 else 5, device)


def run(device: torch.device, quick: bool) -> Iterator[Figure]:
    """Windowed attention on each engine, in five processes; then dense and causal against SDPA."""
    for N in (4096,) if quick else (4096, 16384):
        for dtype in (torch.float32, torch.bfloat16):
            name = str(dtype).removeprefix("torch.")
            where = f"causal & (window 512 | 4 sinks), N={N}, {name}"
            found = in_processes(windowed, N, dtype, device)
            for way in found[0]:
                yield Figure(way, where, 1000 * median(times[way] for times in found), "ms")
            ratios = [times["flex"] / times["tiles"] for times in found]
            wanted = device.type == "cpu" and dtype == torch.float32
            yield Figure(
                f"compiled FlexAttention / tiles (processes: {min(ratios):.2f} to {max(ratios):.2f})",
                where,
                median(ratios),
                "x",
                *(("at least 1.4", median(ratios) >= 1.4) if wanted else ()),
            )
            better = median(times["auto"] / min(times["tiles"], times["flex"]) for times in found)
            yield Figure("auto / better of tiles and flex", where, better, "x", "at most 1.05 (noise)", better <= 1.05)
    for N in (4096,) if quick else (1024, 4096):
        q, k, v = qkv(N, torch.float32, device)
        for name, where, flag in (("dense", None, False), ("causal", causal(), True)):
            times = in_turn(
                {
                    "sdpa": lambda q=q, k=k, v=v, flag=flag: F.scaled_dot_product_attention(q, k, v, is_causal=flag),
                    "attend": lambda q=q, k=k, v=v, where=where: attend(q, k, v, where=where),
                },
                15,
                device,
            )
            ratio = times["attend"] / times["sdpa"]
            yield Figure("attend / SDPA", f"{name}, N={N}, float32", ratio, "x", "at most 1.03", ratio <= 1.03)
