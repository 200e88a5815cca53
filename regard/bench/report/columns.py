"""The columns of the comparison: the same in the terminal, on the page and in the page's definitions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from regard.bench.report import format as fmt
from regard.bench.report.judge import judge
from regard.bench.report.reading import Result, Row, figure, interval, is_dense, names, number, relative, rows


@dataclass(frozen=True)
class Column:
    """One column: two short lines of heading, two lines a cell, and what they mean.

    `best` is +1 where more is better, -1 where less is, 0 where no value is singled out. `keep` orders what a narrow
    terminal gives up: the lowest goes first.
    """

    key: str
    head: str
    unit: str
    title: str
    meaning: str
    formula: str
    best: int
    keep: int
    cell: Callable[[Row], tuple[str, str]]
    value: Callable[[Row], float | None]

    @property
    def short(self) -> str:
        """The column in a running sentence."""
        return "faster from" if self.key == "break_even" else self.head


def _measured(key: str, show: Callable[[float | None], str]) -> Callable[[Row], tuple[str, str]]:
    """A figure over its multiple of dense; dense itself is the unit and has none."""

    def cell(row: Row) -> tuple[str, str]:
        times = None if is_dense(row) else relative(row, key)
        return show(figure(row, key)), "" if times is None else fmt.ratio(times)

    return cell


def _single(key: str, show: Callable[[float | None], str]) -> Callable[[Row], tuple[str, str]]:
    return lambda row: (show(figure(row, key)), "")


def _perplexity(row: Row) -> tuple[str, str]:
    ends = interval(row)
    return fmt.significant(figure(row, "perplexity"), 4), fmt.interval(*ends) if ends else ""


def _needles(row: Row) -> tuple[str, str]:
    tried = row.get("needles") or ()
    found = sum(bool(needle.get("correct")) for needle in tried)
    share = figure(row, "needle_accuracy")
    return fmt.MISSING if share is None else f"{share:.0%}", f"{found}/{len(tried)}" if tried else ""


def _flops(row: Row) -> tuple[str, str]:
    chosen = figure(row, "selection_flops")
    return fmt.count(figure(row, "score_flops")), "" if chosen is None else f"+{fmt.count(chosen)}"


def _all_flops(row: Row) -> float | None:
    scored, chosen = figure(row, "score_flops"), figure(row, "selection_flops")
    return None if scored is None else scored + (chosen or 0)


def _faster(row: Row) -> tuple[str, str]:
    if is_dense(row):
        return "", ""
    length = number(row.get("break_even"))
    if length is not None:
        return fmt.tokens(length), ""
    return "never" if row.get("break_even_times") else fmt.MISSING, ""


def _of(key: str) -> Callable[[Row], float | None]:
    return lambda row: figure(row, key)


COLUMNS = (
    Column(
        "perplexity", "perplexity", "interval", "Perplexity",
        "How surprised the model is by the text: less is better. The second line is a bootstrap interval over the "
        "text; values inside dense's own interval can't be told from dense.",
        "exp( mean over tokens t of −log p(x_t | x_1 … x_t−1) )",
        -1, 12, _perplexity, _of("perplexity"),
    ),
    Column(
        "kl", "KL", "nats", "KL divergence",
        "How far the method's next-token distribution is from dense's on the same tokens: 0 is the same.",
        "mean over tokens of Σ_x p_dense(x) · log( p_dense(x) / p_method(x) ), in nats",
        -1, 7, _single("kl", fmt.nats), _of("kl"),
    ),
    Column(
        "top1_agreement", "top-1", "agree", "Top-1 agreement",
        "How often the method's likeliest next token is the one that dense finds likeliest.",
        "tokens with argmax p_method = argmax p_dense, divided by all tokens",
        1, 6, _single("top1_agreement", fmt.percent), _of("top1_agreement"),
    ),
    Column(
        "needle_accuracy", "needle", "found", "Needle retrieval",
        "How often a fact hidden in a text, at several depths, is told when it is asked for at the text's end.",
        "needles told correctly, divided by needles hidden",
        1, 9, _needles, _of("needle_accuracy"),
    ),
    Column(
        "density", "density", "pairs", "Density",
        "The share of query-key pairs that the method looks at. It is a count, not a time.",
        "visible pairs, divided by the pairs that the model itself allows",
        -1, 8, _single("density", fmt.percent), _of("density"),
    ),
    Column(
        "prefill_seconds", "prefill", "s", "Prefill",
        "The time to read the whole context once. The second line is a multiple of dense's time.",
        "seconds; × = method's seconds / dense's seconds",
        -1, 11, _measured("prefill_seconds", fmt.significant), _of("prefill_seconds"),
    ),
    Column(
        "decode_ms_per_token", "decode", "ms/tok", "Decode",
        "The time for each further token once the context has been read.",
        "median milliseconds a token; × = method's / dense's",
        -1, 10, _measured("decode_ms_per_token", fmt.significant), _of("decode_ms_per_token"),
    ),
    Column(
        "kv_bytes", "cache", "KV", "Key/value cache",
        "The bytes of keys and values that are resident at the end.",
        "bytes (1 MB = 10⁶ bytes); × = method's / dense's",
        -1, 5, _measured("kv_bytes", fmt.size), _of("kv_bytes"),
    ),
    Column(
        "peak_bytes", "peak", "memory", "Peak memory",
        "The most memory that was in use above the loaded model.",
        "bytes at the peak − bytes with the model loaded; × = method's / dense's",
        -1, 2, _measured("peak_bytes", fmt.size), _of("peak_bytes"),
    ),
    Column(
        "flops", "FLOPs", "+select", "Score and selection FLOPs",
        "The operations of the prefill that go into the pairs that are looked at and, on the second line, into "
        "choosing them.",
        "floating-point operations: score, + selection",
        -1, 1, _flops, _all_flops,
    ),
    Column(
        "break_even", "faster", "from", "Faster than dense from",
        "The length from which attention with this method was faster than dense attention on this machine, timed alone "
        "at several lengths; never: at none of them.",
        "the least measured N from which on seconds of the method < seconds of dense",
        0, 3, _faster, _of("break_even"),
    ),
)  # fmt: skip


def told(members: Sequence[Row]) -> list[Column]:
    """The columns in which at least one row says something."""
    return [
        column
        for column in COLUMNS
        if any(line not in ("", fmt.MISSING) for row in members for line in column.cell(row))
    ]


def winners(column: Column, result: Result) -> set[int]:
    """Which rows have the best value of a column.

    Dense is the yardstick and takes no part, nor does a method that breaks the model: it is cheap for nothing. Nobody
    wins alone.
    """
    broken = {one.name for one in judge(result) if one.quality == "breaks"}
    values = {
        at: value
        for at, (name, row) in enumerate(zip(names(result), rows(result), strict=True))
        if not is_dense(row) and name not in broken and (value := column.value(row)) is not None
    }
    if not column.best or len(values) < 2:
        return set()
    top = max(values.values()) if column.best > 0 else min(values.values())
    return {at for at, value in values.items() if value == top}
