"""What the figures allow to be said of each method, by rules that are written out."""

from dataclasses import dataclass, field
from math import exp, inf, log

from regard.bench.report.reading import (
    Result,
    Row,
    context,
    dense,
    figure,
    interval,
    is_dense,
    names,
    number,
    relative,
    rows,
    stream_names,
    streams,
)

# A cost within this share of dense's counts as the same: one run on one machine can't tell them apart.
NOISE = 0.10
# A perplexity this many times dense's is a break, not a loss.
BREAK = 2.0
# So many needles more than dense must be missed to count as a loss: one alone is chance.
NEEDLES = 2

COSTS = ("prefill_seconds", "decode_ms_per_token", "kv_bytes", "peak_bytes")

RULES = (
    "A method keeps quality when its perplexity is not above the upper end of dense's interval and it misses fewer "
    f"than {NEEDLES} needles more than dense does.",
    "Where its perplexity is above that end but its own interval reaches below it, the difference may be noise.",
    "It loses quality when its whole interval is above dense's, or when it misses "
    f"{NEEDLES} needles or more than dense does; it breaks the model when its perplexity is {BREAK:.0f} times "
    "dense's or more.",
    "A time or an amount of memory is a saving, or a price, only where it differs from dense's by more than "
    f"{NOISE:.0%}; a shorter prefill is no saving where attention, timed alone up to this length, was never faster.",
    "Least cost is the lowest geometric mean of the measured multiples of dense (prefill, decode, cache, peak memory; "
    "inside the noise they count as one) among the methods that keep quality, save something and pay for nothing.",
    f"In a stream a method breaks when its perplexity past the trained context is {BREAK:.0f} times that of dense "
    "before it, or more; both are geometric means.",
    "Density and FLOPs are counted, not felt, and decide nothing.",
)


@dataclass(frozen=True)
class Judgement:
    """What the rules make of one row.

    `quality` is keeps, unclear (may be noise), needles (loses only needles), loses, breaks or unknown. `saves` and
    `pays` hold the costs outside the noise as multiples of dense; `cost` is their geometric mean over all `measured`;
    `times` is perplexity over dense's; `needles` are those found by the method, those found by dense, and all.
    """

    name: str
    quality: str
    perplexity: float | None
    times: float | None
    measured: tuple[str, ...]
    saves: dict[str, float] = field(default_factory=dict)
    pays: dict[str, float] = field(default_factory=dict)
    cost: float = 1.0
    needles: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Stream:
    """What became of one method past the trained context (`limit`); `cache` is in bytes."""

    name: str
    limit: float
    perplexity: float
    cache: float | None
    held: bool


def judge_streams(result: Result) -> list[Stream]:
    """What became of each stream past the trained context; empty where none got there or dense was not streamed."""
    limit = number((result.get("model") or {}).get("trained_context"))
    base = next((stream for stream in streams(result) if is_dense(stream)), None)
    before = None if limit is None or base is None else _mean(base, 0, limit)
    if limit is None or before is None:
        return []
    told: list[Stream] = []
    for name, stream in zip(stream_names(result), streams(result), strict=True):
        after = _mean(stream, limit, inf)
        caches = [size for point in stream.get("points") or () if (size := figure(point, "kv_bytes")) is not None]
        if after is not None:
            told.append(Stream(name, limit, after, caches[-1] if caches else None, held=after < BREAK * before))
    return told


def judge(result: Result) -> list[Judgement]:
    """What the rules make of each row but dense, in the result's order; empty without a dense row."""
    base = dense(result)
    if base is None:
        return []
    members = zip(names(result), rows(result), strict=True)
    return [_judge(name, row, base, context(result)) for name, row in members if not is_dense(row)]


def _mean(stream: Row, above: float, to: float) -> float | None:
    """The geometric mean of the perplexity over the points that end in (above, to]."""
    logs = [
        log(value)
        for point in stream.get("points") or ()
        if above < point["tokens"] <= to and (value := figure(point, "perplexity")) is not None
    ]
    return exp(sum(logs) / len(logs)) if logs else None


def _judge(name: str, row: Row, base: Row, length: float | None) -> Judgement:
    found = {key: relative(row, key) for key in COSTS}
    measured = {key: times for key, times in found.items() if times is not None and times > 0}
    if measured.get("prefill_seconds", 1) < 1 and _contradicted(row, length):
        measured["prefill_seconds"] = 1.0
    outside = {key: times for key, times in measured.items() if abs(times - 1) > NOISE}
    mine, its = figure(row, "perplexity"), figure(base, "perplexity")
    return Judgement(
        name,
        _quality(row, base),
        mine,
        mine / its if mine is not None and its else None,
        tuple(measured),
        saves={key: times for key, times in outside.items() if times < 1},
        pays={key: times for key, times in outside.items() if times > 1},
        cost=exp(sum(log(times) for times in outside.values()) / len(measured)) if measured else 1.0,
        needles=_needles(row, base),
    )


def _quality(row: Row, base: Row) -> str:
    mine, its, band, own = figure(row, "perplexity"), figure(base, "perplexity"), interval(base), interval(row)
    if mine is None or its is None:
        return "unknown"
    if mine >= BREAK * its:
        return "breaks"
    if band is None:
        return "unknown"
    if mine > band[1] and (own is None or own[0] > band[1]):
        return "loses"
    needles = _needles(row, base)
    if needles is not None and needles[1] - needles[0] >= NEEDLES:
        return "needles"
    return "unclear" if mine > band[1] else "keeps"


def _needles(row: Row, base: Row) -> tuple[int, int, int] | None:
    mine, its = row.get("needles") or (), base.get("needles") or ()
    if not mine or len(mine) != len(its):
        return None
    return sum(bool(one.get("correct")) for one in mine), sum(bool(one.get("correct")) for one in its), len(its)


def _contradicted(row: Row, length: float | None) -> bool:
    """Whether attention timed alone was never faster although it was timed at this length."""
    times = row.get("break_even_times") or ()
    return row.get("break_even") is None and length is not None and any(entry[0] >= length for entry in times)
