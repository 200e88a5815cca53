"""`attend` beside FlexAttention and SDPA, H=8, D=64."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benchmarks.pairing import Figure, in_turn, qkv
from regard.masks import causal, sinks, window
from regard.ops import attend


def run(device: torch.device, quick: bool) -> Iterator[Figure]:
    """Windowed attention on each engine, then dense and causal against SDPA."""
    mask = causal() & (window(512) | sinks(4))
    compiled = torch.compile(flex_attention, dynamic=False)

    def mod(b: torch.Tensor, h: torch.Tensor, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
        return (j <= i) & ((i - j < 512) | (j < 4))

    for N in (4096,) if quick else (4096, 16384):
        planned = create_block_mask(mod, None, None, N, N, device=str(device))
        for dtype in (torch.float32, torch.bfloat16):
            q, k, v = qkv(N, dtype, device)
            times = in_turn(
                {
                    "flex": lambda q=q, k=k, v=v, planned=planned: compiled(q, k, v, block_mask=planned),
                    "tiles": lambda q=q, k=k, v=v: attend(q, k, v, where=mask, engine="tiles"),
                    "auto": lambda q=q, k=k, v=v: attend(q, k, v, where=mask),
                    "sdpa causal": lambda q=q, k=k, v=v: F.scaled_dot_product_attention(q, k, v, is_causal=True),
                },
                9,
                device,
            )
            name = str(dtype).removeprefix("torch.")
            where = f"causal & (window 512 | 4 sinks), N={N}, {name}"
            for way, spent in times.items():
                yield Figure(way, where, 1000 * spent, "ms")
            ratio = times["flex"] / times["tiles"]
            wanted = device.type == "cpu" and dtype == torch.float32
            yield Figure(
                "compiled FlexAttention / tiles", where, ratio, "x", *(("at least 1.4", ratio >= 1.4) if wanted else ())
            )
            better = min(times["tiles"], times["flex"])
            yield Figure(
                "auto / better of tiles and flex",
                where,
                times["auto"] / better,
                "x",
                "at most 1.05 (noise)",
                times["auto"] <= 1.05 * better,
            )
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
