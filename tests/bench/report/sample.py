"""A made result with the shape of a real one: eight methods, a stream, and figures missing here and there.

The figures are invented to look plausible and to meet every rule of the verdict; nothing is measured.
"""

from __future__ import annotations

import math
import random
from typing import Any

LAYERS, HEADS, CONTEXT, MAP = 30, 9, 4096, 64
LENGTHS = (512, 1024, 2048, 4096)

# method, settings, perplexity, kl, top-1, needles right, density, prefill ratio, decode ratio, cache ratio, peak ratio,
# selection FLOPs as a share of dense's score FLOPs, break-even
METHODS: list[tuple[str, dict[str, Any], tuple[Any, ...]]] = [
    ("dense", {}, (17.31, 0.0, 1.0, 10, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0, None)),
    ("sliding_window", {"window": 512}, (312.4, 3.214, 0.312, 0, 0.234, 0.58, 0.71, 0.125, 0.60, 0.0, 2048)),
    ("streaming_llm", {"window": 508, "sinks": 4}, (17.88, 0.041, 0.921, 2, 0.234, 0.61, 0.72, 0.125, 0.61, 0.0, 2048)),
    (
        "power_attention",
        {"window": 256, "block": 64},
        (17.62, 0.029, 0.934, 9, 0.171, 0.66, 1.04, 1.0, 0.72, 0.0, 2048),
    ),
    ("moba", {"block": 256, "top_k": 3}, (18.9, 0.083, 0.887, 8, 0.243, 1.31, 1.02, 1.0, None, 0.011, None)),
    ("spargeattn", {"threshold": 0.95}, (17.35, 0.0031, 0.981, 10, 0.612, 0.97, 1.0, 1.0, 1.01, 0.016, None)),
    ("oracle_top_k", {"top_k": 512}, (17.33, 0.0009, 0.991, 10, 0.234, 1.84, 1.42, 1.0, 1.65, 1.0, None)),
    ("random_blocks", {"block": 64, "share": 0.23}, (22.4, 0.262, 0.744, 1, 0.235, 0.73, None, 1.0, 0.75, 0.0, 2048)),
]
FLOPS, CACHE, PREFILL, DECODE, PEAK = 2.9e11, 94_371_840, 6.42, 31.7, 412_000_000


def sample_result() -> dict[str, Any]:
    """A fresh copy of the whole result."""
    rng = random.Random(7)
    rows = [_row(method, settings, figures, rng) for method, settings, figures in METHODS]
    return {
        "schema": 1,
        "command": "regard compare --model smollm2-135m --context 4096 -m dense -m streaming_llm:window=508,sinks=4",
        "started": "2026-01-31T12:00:00+00:00",
        "seed": 0,
        "model": {
            "name": "smollm2-135m", "revision": "93efa2f097d58c2a74874c7e644dbc9b0cee75a2",
            "architecture": "LlamaForCausalLM", "parameters": 134_515_008, "layers": LAYERS, "heads": HEADS,
            "groups": 3, "width": 64, "dtype": "float32", "trained_context": 8192,
        },
        "text": {"name": "alice29.txt", "sha256": "7467306ee0feed4971260f3c87421154" * 2, "tokens": CONTEXT},
        "settings": {"context": CONTEXT, "decode": 64, "needles": 10, "bootstrap": 1000, "stream": 20_000},
        "machine": {"processor": "A processor @ 2.00GHz", "threads": 2, "device": "cpu", "system": "Linux 6.1 x86_64"},
        "versions": {
            "regard": "0.1.0", "python": "3.11.2", "torch": "2.13.0", "transformers": "5.24.0", "numpy": "2.4.6",
        },
        "rows": rows,
        "stream": [_stream(row, rng) for row in rows if row["method"] in ("dense", "sliding_window", "streaming_llm")],
    }  # fmt: skip


def _row(method: str, settings: dict[str, Any], figures: tuple[Any, ...], rng: random.Random) -> dict[str, Any]:
    perplexity, kl, top1, right, density, prefill, decode, cache, peak, selection, even = figures
    told = ",".join(f"{key}={value}" for key, value in settings.items())

    def of(whole: float, share: float | None) -> float | None:
        return None if share is None else whole * share

    return {
        "method": method,
        "settings": dict(settings),
        "label": f"{method}:{told}" if told else method,
        "perplexity": perplexity,
        "perplexity_interval": [perplexity * 0.948, perplexity * 1.053],
        "kl": kl,
        "top1_agreement": top1,
        "needle_accuracy": right / 10,
        "needles": [
            {"depth": at / 5 + 0.1 + 0.01 * text, "correct": at * 2 + text >= 10 - right}
            for text in range(2)
            for at in range(5)
        ],
        "density": density,
        "score_flops": round(FLOPS * density),
        "selection_flops": round(FLOPS * selection),
        "kv_bytes": round(CACHE * cache),
        "prefill_seconds": PREFILL * prefill,
        "decode_ms_per_token": of(DECODE, decode),
        "peak_bytes": of(PEAK, peak),
        "relative": {
            "perplexity": perplexity / 17.31, "kv_bytes": cache, "prefill_seconds": prefill,
            "decode_ms_per_token": decode, "peak_bytes": peak, "score_flops": density,
        },
        "break_even": even,
        "break_even_times": [] if method == "dense" else [_times(length, prefill, rng) for length in LENGTHS],
        "loss_by_position": [_loss(start, method, perplexity, rng) for start in range(0, CONTEXT, 128)],
        "density_by_head": [[_spread(method, density, rng) for _ in range(HEADS)] for _ in range(LAYERS)],
        "picture": {"layer": 14, "head": 4, "tokens": CONTEXT, "weights": _picture(method, rng)},
        "worse_than_baseline": method in ("sliding_window", "random_blocks"),
    }  # fmt: skip


def _times(length: int, prefill: float, rng: random.Random) -> list[float]:
    share = prefill ** min(1.8, math.log2(length / 256) / 4) * (1 + 30 / length)
    theirs = length * 1.1e-5 + length**2 * 1.3e-9
    return [length, theirs * share * rng.uniform(0.98, 1.02), theirs * rng.uniform(0.98, 1.02)]


def _loss(start: int, method: str, perplexity: float, rng: random.Random) -> list[float]:
    text = math.sin(start / 300) * 0.22 + random.Random(start).gauss(0, 0.12)
    warm = 1.1 * math.exp(-start / 150)
    extra = math.log(perplexity / 17.31) * (start >= 512) * 1.15
    return [start, start + 128, 2.8 + text + warm + extra + (method != "dense") * rng.gauss(0, 0.004)]


def _spread(method: str, density: float, rng: random.Random) -> float:
    return min(1.0, max(0.05, rng.gauss(density, 0.16))) if method == "spargeattn" else density


def _picture(method: str, rng: random.Random) -> list[list[float]]:
    """A plausible head: a sink, a near diagonal and a little of everything, masked as the method would."""
    picture: list[list[float]] = []
    for i in range(MAP):
        row = [0.0] * MAP
        for j in range(i + 1):
            row[j] = (0.5 if j == 0 else 0.0) + math.exp(-(i - j) / 2.0) * 0.4 + rng.random() ** 6 * 0.02
            if not _sees(method, i, j, rng):
                row[j] = 0.0
        total = sum(row) or 1.0
        picture.append([round(math.sqrt(value / total), 3) for value in row])
    return picture


def _sees(method: str, i: int, j: int, rng: random.Random) -> bool:
    near = i - j < 8
    return {
        "sliding_window": near,
        "streaming_llm": near or j == 0,
        "power_attention": near or (i - j) & (i - j - 1) == 0 or j == 0,
        "moba": i // 4 == j // 4 or (i * 7 + j // 4 * 13) % 5 < 2,
        "spargeattn": near or j == 0 or rng.random() < 0.5,
        "oracle_top_k": near or j == 0 or rng.random() < 0.2,
        "random_blocks": i == j or (i * 31 + j * 17) % 11 < 3,
    }.get(method, True)


def _stream(row: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    points: list[dict[str, Any]] = []
    for end in range(1000, 20_001, 1000):
        grown = end if row["method"] == "dense" else min(end, 512)
        factor = {
            "dense": 1 if end <= 8192 else math.exp((end - 8192) / 1800),
            "sliding_window": 1 if end < 1000 else 19,
        }.get(row["method"], 1.03)
        lost = row["method"] == "dense" and end > 18_000
        points.append(
            {
                "tokens": end,
                "perplexity": None if lost else 17.3 * factor * math.exp(rng.gauss(0, 0.08)),
                "kv_bytes": None if lost else grown * 23_040,
                "ms_per_token": None if lost else 19 + grown * 0.0031 + rng.uniform(-1, 1),
            }
        )
    return {"method": row["method"], "settings": row["settings"], "label": row["label"], "points": points}
