"""The recurrence: chunks beside single steps and SDPA, break-even lengths, and public pure-torch forms."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Iterator
from statistics import median
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

import regard
from benchmarks.pairing import Figure, in_processes, in_turn, qkv
from regard.layers import Attention
from regard.layers.create import settings_of
from regard.ops import recur

FORMS: dict[str, Callable[[int, torch.device], dict[str, object]]] = {
    "no decay": lambda N, device: {},
    "decay per head": lambda N, device: {"decay": -0.01 * torch.arange(1, 9, device=device)},
    "decay per token": lambda N, device: {"decay": _fades(N, device)},
    "decay per channel": lambda N, device: {"decay": _fades(N, device, 64)},
    "delta rule": lambda N, device: {"write": "delta"},
    "delta rule, decay per token": lambda N, device: {"write": "delta", "decay": _fades(N, device)},
    "running softmax": lambda N, device: {"normalise": "softmax"},
}


def run(device: torch.device, quick: bool) -> Iterator[Figure]:
    """Chunks against steps, the slope of time, SDPA and chunk sizes; then tokens a second, and peers."""
    N = 2048 if quick else 8192
    for form in FORMS:
        spent = _median(in_processes(beside, form, N, device, processes=2 if quick else 3))
        where = f"{form}, N={N}, H=8, D=64, float32"
        ratio = spent["steps"] / spent["chunked"]
        yield Figure("single steps / chunked", where, ratio, "x", "at least 20", ratio >= 20)
        yield Figure("SDPA, causal / chunked", where, spent["sdpa"] / spent["chunked"], "x")
        sizes = {name: value for name, value in spent.items() if name.isdigit()}
        told = ", ".join(f"{name}: {1000 * value:.1f}" for name, value in sizes.items())
        yield Figure(f"chunk of 64 / best chunk (ms by size: {told})", where, sizes["64"] / min(sizes.values()), "x")
    for form in ("no decay", "decay per head", "decay per channel", "delta rule"):
        lengths = (2048, 4096) if quick else (2048, 4096, 8192, 16384, 32768)
        spent = _median(in_processes(lengthening, form, lengths, device, processes=2 if quick else 3))
        seconds = [spent[str(n)] for n in lengths]
        slope = math.log(seconds[-1] / seconds[0], lengths[-1] / lengths[0])
        told = ", ".join(f"{n}: {1e6 * s / n:.2f}" for n, s in zip(lengths, seconds, strict=True))
        where = f"{form}, microseconds a token at N = {told}"
        yield Figure("chunked, slope of time", where, slope, "power of N", "1.0 within 0.1", abs(slope - 1) <= 0.1)
        even = next((n for n in lengths if spent[f"sdpa {n}"] >= spent[str(n)]), None)
        yield Figure(
            "faster than SDPA's causal attention from N", where, even or math.inf, "tokens", "at most 4096",
            even is not None and even <= 4096,
        )  # fmt: skip
    if not quick:
        yield from constant(device)
        yield from break_even(device)
    yield from peers(device)


def _fades(N: int, device: torch.device, width: int = 0) -> Tensor:
    source = torch.Generator().manual_seed(1)
    shape = (1, 8, N, width) if width else (1, 8, N)
    return (-0.1 * torch.rand(shape, generator=source)).to(device)


def _median(found: list[dict[str, float]]) -> dict[str, float]:
    return {name: median(times[name] for times in found) for name in found[0]}


@torch.no_grad()
def beside(form: str, N: int, device: torch.device) -> dict[str, float]:
    """Median seconds of single steps, chunks, chunks of each size, and SDPA."""
    q, k, v = qkv(N, torch.float32, device)
    k = F.normalize(k, dim=-1)
    settings = FORMS[form](N, device)
    ways: dict[str, Callable[[], object]] = {
        "chunked": lambda: recur(q, k, v, engine="chunked", **settings),  # type: ignore[arg-type]
        "sdpa": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True),
    }
    for chunk in (16, 32, 64, 128):
        ways[str(chunk)] = lambda chunk=chunk: recur(q, k, v, engine="chunked", chunk=chunk, **settings)  # type: ignore[arg-type]
    spent = in_turn(ways, 5, device)
    steps = {"steps": lambda: recur(q, k, v, engine="reference", **settings)}  # type: ignore[arg-type]
    return {**spent, **in_turn(steps, 3, device, twice=False)}


@torch.no_grad()
def lengthening(form: str, lengths: tuple[int, ...], device: torch.device) -> dict[str, float]:
    """Median seconds of chunks at each length, and of SDPA up to 8192."""
    found: dict[str, float] = {}
    for N in lengths:
        q, k, v = qkv(N, torch.float32, device)
        k = F.normalize(k, dim=-1)
        settings = FORMS[form](N, device)
        found |= in_turn({str(N): lambda: recur(q, k, v, **settings)}, 5, device)  # type: ignore[arg-type]  # noqa: B023
        sdpa = {f"sdpa {N}": lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True)}  # noqa: B023
        found |= in_turn(sdpa, 3, device) if N <= 8192 else {f"sdpa {N}": math.inf}
    return found


def constant(device: torch.device) -> Iterator[Figure]:
    """Lightning's claim: tokens a second from 1k to 64k tokens."""
    lengths = (1024, 2048, 4096, 8192, 16384, 32768, 65536)
    found = _median(in_processes(_lightning, lengths, device, processes=3))
    rates = [n / found[str(n)] for n in lengths]
    told = ", ".join(f"{n}: {rate / 1000:.0f}" for n, rate in zip(lengths, rates, strict=True))
    spread = max(rates) / min(rates)
    where = f"lightning_attention2, dim 512, 8 heads, forward, thousand tokens a second at N = {told}"
    yield Figure("most / fewest tokens a second", where, spread, "x", "at most 1.2 (within 10%)", spread <= 1.2)


@torch.no_grad()
def _lightning(lengths: tuple[int, ...], device: torch.device) -> dict[str, float]:
    layer = Attention(512, 8, mixer="lightning_attention2").to(device).eval()
    ways = {}
    for N in lengths:
        x = torch.randn(1, N, 512, device=device)
        ways[str(N)] = lambda x=x: layer(x, causal=True)
    return in_turn(ways, 3, device)


def break_even(device: torch.device) -> Iterator[Figure]:
    """For each mechanism of these families, from what length on its layer is faster than the plain one."""
    for name, kind in regard.mechanisms().items():
        if kind.__module__.split(".")[2] not in ("linear", "memory"):
            continue
        (found,) = in_processes(_lengths, name, device, processes=1)
        even = next((int(N) for N, ratio in found.items() if ratio <= 1), None)
        told = ", ".join(f"{N}: {ratio:.2f}" for N, ratio in found.items())
        what = "not faster than softmax up to N" if even is None else "faster than softmax from N"
        yield Figure(f"{name}, {what}", f"time / softmax's at N = {told}", even or int(list(found)[-1]), "tokens")


@torch.no_grad()
def _lengths(name: str, device: torch.device) -> dict[str, float]:
    kind = regard.mechanisms()[name]
    reach = {"length": 16384} if "length" in settings_of(kind) else {}
    layer, plain = regard.create(name, dim=128, heads=4, **reach), Attention(128, 4)
    causal = kind.spec.causal
    found: dict[str, float] = {}
    for N in (512, 1024, 2048, 4096, 8192, 16384):
        x = torch.randn(1, N, 128, device=device)
        ways = {
            "own": lambda: layer(x, causal=causal, embeddings=x),  # noqa: B023
            "plain": lambda: plain(x, causal=causal),  # noqa: B023
        }
        spent = in_turn(ways, 3, device, twice=N < 4096)
        found[str(N)] = spent["own"] / spent["plain"]
        if spent["own"] > 8:
            break
    return found


def peers(device: torch.device) -> Iterator[Figure]:
    """Public pure-torch forms of the same recurrences, with equal outputs, forward and backward at N=4096."""
    naive = {name: module for name in ("linear_attn", "simple_gla", "gated_delta_rule") if (module := _naive(name))}
    if not naive:
        return
    N = 4096
    q, k, v = (x.requires_grad_() for x in qkv(N, torch.float32, device))
    fade, beta = _fades(N, device), torch.rand(1, 8, N, generator=torch.Generator().manual_seed(2)).to(device)

    def theirs(call: Callable[..., object], *more: Tensor) -> Tensor:
        out = call(
            *(x.transpose(1, 2) for x in (q, F.normalize(k, dim=-1), v)), *(x.transpose(1, 2) for x in more), scale=1.0
        )
        return (out[0] if isinstance(out, tuple) else out).transpose(1, 2)

    unit = lambda: F.normalize(k, dim=-1)  # noqa: E731
    cases = {
        "linear_attn": (lambda: recur(q, unit(), v), lambda: theirs(naive["linear_attn"].naive_chunk_linear_attn)),
        "simple_gla": (
            lambda: recur(q, unit(), v, decay=fade),
            lambda: theirs(naive["simple_gla"].naive_chunk_simple_gla, fade),
        ),
        "gated_delta_rule": (
            lambda: recur(q, unit(), v, decay=fade, beta=beta, write="delta"),
            lambda: theirs(naive["gated_delta_rule"].naive_chunk_gated_delta_rule, fade, beta),
        ),
    }
    for name, (ours, other) in cases.items():
        if name not in naive:
            continue
        with torch.no_grad():
            a, b = ours(), other()
        off = float((a - b).abs().max() / a.abs().max())
        assert off < 1e-4, f"{name} differs by {off:.3g}"
        spent = in_turn({"ours": _backward(ours), "theirs": _backward(other)}, 5, device)
        ratio = spent["theirs"] / spent["ours"]
        where = f"N={N}, H=8, D=64, float32, forward and backward; outputs differ by {off:.1g}"
        yield Figure(f"fla's naive chunked {name} / recur", where, ratio, "x", "above 1", ratio > 1)


def _backward(call: Callable[[], Tensor]) -> Callable[[], object]:
    return lambda: call().sum().backward()


def _naive(name: str) -> ModuleType | None:
    """fla's pure-torch form of one recurrence; its package imports a GPU compiler, so that the file alone is read."""
    home = importlib.util.find_spec("fla")
    if home is None or not home.submodule_search_locations:
        return None
    path = f"{home.submodule_search_locations[0]}/ops/{name}/naive.py"
    spec = importlib.util.spec_from_file_location(f"fla_naive_{name}", path)
    if spec is None or spec.loader is None:
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
