"""The layer with plain slots against torch's own, and every mechanism's layer against the plain one."""

from __future__ import annotations

import json
import math
import multiprocessing
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

import regard
from benchmarks.pairing import Figure, in_processes, in_turn, settle
from regard.bench.machine import machine
from regard.layers import Attention
from regard.layers.create import settings_of

TRAVELS = Path(regard.__file__).parent / "data" / "mechanisms.json"  # `regard show` and the pages read it
LENGTHS = (512, 1024, 2048, 4096, 8192)
DIM, HEADS = 128, 4
PATIENCE = 20.0  # seconds that one call may be expected to take
ROOM = 12 << 30  # bytes that one call may be expected to hold


def run(device: torch.device, quick: bool, only: Sequence[str] = ()) -> Iterator[Figure]:
    """The plain layer once, then a line for each mechanism; those not in `only`, if it is given, keep their figures."""
    known = json.loads(TRAVELS.read_text(encoding="utf-8"))["mechanisms"] if only else {}
    yield plain(device, quick)
    rows = {}
    spawn = multiprocessing.get_context("spawn")
    lengths = LENGTHS[:3] if quick else LENGTHS
    for name, kind in regard.mechanisms().items():
        if kind.spec.slot == "depth":
            continue  # it reads a token's sources, not tokens
        causal = kind.spec.causal
        if name in known and name not in only:
            rows[name] = known[name]
        else:
            with ProcessPoolExecutor(1, mp_context=spawn) as pool:
                ratios, seconds = pool.submit(mechanism, name, causal, lengths, device.type).result()
            grown, end = list(seconds)[-2:]
            slope = math.log(seconds[end] / seconds[grown], end / grown)
            rows[name] = {"ratio": {str(N): ratio for N, ratio in ratios.items()}, "grown": grown, "slope": slope}
        ratios, slope, last = (
            rows[name]["ratio"],
            rows[name]["slope"],
            (rows[name]["grown"], list(rows[name]["ratio"])[-1]),
        )
        told = ", ".join(f"{N}: {ratio:.2f}" for N, ratio in ratios.items())
        setting = f"forward, {'causal' if causal else 'not causal'}, time / softmax's at N = {told}"
        yield Figure(name, setting, slope, f"power of N from {last[0]} to {last[1]}")
    where = machine(device)
    on = where["device"] if where["device"] != "cpu" else f"{where['processor']}, {where['threads']} threads"
    record = {
        "machine": on,
        "command": "python -m benchmarks layers",
        "setting": f"dim={DIM}, heads={HEADS}, float32, batch 1",
        "mechanisms": rows,
    }
    if not quick and device.type == "cpu":
        TRAVELS.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def plain(device: torch.device, quick: bool) -> Figure:
    """Forward and backward of the plain layer over torch's, the median of fresh processes."""
    said = in_processes(_plain, device.type, processes=2 if quick else 5)
    ratios = sorted(one["regard"] / one["torch"] for one in said)
    value = median(ratios)
    what = f"Attention with plain slots / nn.MultiheadAttention (processes: {ratios[0]:.3f} to {ratios[-1]:.3f})"
    setting = "forward and backward, N=1024, C=512, float32"
    return Figure(what, setting, value, "x", "at most 1.05", value <= 1.05)


def _plain(kind: str) -> dict[str, float]:
    device = torch.device(kind)
    torch.manual_seed(0)
    ours = Attention(512, 8, projection="mha:bias=true", merge="concat:bias=true").to(device)
    theirs = nn.MultiheadAttention(512, 8, batch_first=True).to(device)
    p, merge = ours.projection, ours.merge
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.q.weight, p.k.weight, p.v.weight]))  # type: ignore[union-attr]
        theirs.out_proj.weight.copy_(merge.out.weight)  # type: ignore[union-attr, arg-type]
    x = torch.randn(1, 1024, 512, device=device, requires_grad=True)
    assert torch.allclose(ours(x), theirs(x, x, x, need_weights=False)[0], atol=1e-5)

    def backward(out: Tensor) -> None:
        out.sum().backward()

    ways = {
        "regard": lambda: backward(ours(x)),
        "torch": lambda: backward(theirs(x, x, x, need_weights=False)[0]),
    }
    return in_turn(ways, 15, device)


def mechanism(
    name: str, causal: bool, lengths: tuple[int, ...], kind: str
) -> tuple[dict[int, float], dict[int, float]]:
    """Time of a mechanism's layer over the plain layer's, and its seconds, at each length that is within reach."""
    device = torch.device(kind)
    torch.manual_seed(0)
    # A table of positions must reach as far.
    reach = {"length": lengths[-1]} if "length" in settings_of(regard.mechanisms()[name]) else {}
    layer = regard.create(name, dim=DIM, heads=HEADS, **reach).to(device).eval()
    softmax = Attention(DIM, HEADS).to(device).eval()
    ratios: dict[int, float] = {}
    seconds: dict[int, float] = {}
    with torch.no_grad():
        for N in lengths:
            expected = 8 * max(seconds.values(), default=0.0)
            if len(seconds) >= 2 and (expected > PATIENCE or 6 * HEADS * N * N * 4 > ROOM * 1.5):
                break
            x = torch.randn(1, N, DIM, device=device)
            start = time.perf_counter()
            layer(x, causal=causal, embeddings=x)
            settle(device)
            once = time.perf_counter() - start
            repeats = 15 if once < 0.05 else 7 if once < 0.5 else 3
            ways = {
                "own": lambda x=x: layer(x, causal=causal, embeddings=x),
                "plain": lambda x=x: softmax(x, causal=causal),
            }
            spent = in_turn(ways, repeats, device, twice=once < 1)
            ratios[N], seconds[N] = spent["own"] / spent["plain"], spent["own"]
    return ratios, seconds
