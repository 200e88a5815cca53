"""The answer in plain words, by explicit rules over the figures and nothing else."""

import re
from collections.abc import Callable, Sequence

from regard.bench.report import format as fmt
from regard.bench.report.judge import NOISE, Judgement, Stream, judge, judge_streams
from regard.bench.report.reading import Result, Row, dense, figure, interval, names, rows

_COSTS = {
    "prefill_seconds": "prefill takes {} the time",
    "decode_ms_per_token": "a decoded token takes {} the time",
    "kv_bytes": "the key/value cache has {} the bytes",
    "peak_bytes": "peak memory is {} dense's",
}


def verdict(result: Result) -> str:
    """One paragraph that answers the question: which method is worth it on this text and machine, and which break.

    It is made from the figures by the rules in `regard.bench.report.judge.RULES`; it claims no saving inside the
    noise, and says so where no method is worth it.
    """
    return " ".join(sentences(result))


def sentences(result: Result) -> list[str]:
    """The verdict sentence by sentence, the answer first."""
    base = dense(result)
    perplexity = None if base is None else figure(base, "perplexity")
    if base is None or perplexity is None:
        return ["There is no measured dense row to compare with, so nothing can be said about what is saved or lost."]
    judged = judge(result)
    if not judged:
        return ["Only dense was measured, so there is nothing to compare it with."]
    said = [_yardstick(base, perplexity)]
    if interval(base) is not None:
        answer, *others = _answer(judged)
        said = [answer, *said, *others, *_unsure(judged)]
    return [*said, *_losses(judged), *_baseline(result), *_needles(base), *_stream(result)]


def _yardstick(base: Row, perplexity: float) -> str:
    ends = interval(base)
    said = f"Dense attention has perplexity {fmt.significant(perplexity, 4)}"
    if ends is None:
        return f"{said}. No interval was measured, so what is noise and which method keeps quality can't be said."
    return (
        f"{said} (interval {fmt.interval(*ends)}); a method inside that interval is as good as dense as far as this "
        "text can tell."
    )


def _answer(judged: Sequence[Judgement]) -> list[str]:
    """The best method that keeps quality, and the others that keep it."""
    keep = [one for one in judged if one.quality == "keeps"]
    free = sorted((one for one in keep if one.saves and not one.pays), key=lambda one: one.cost)
    priced = sorted((one for one in keep if one.saves and one.pays), key=lambda one: one.cost)
    said: list[str] = []
    if free:
        said.append(f"Worth it: {free[0].name} keeps dense's quality at the least cost: {_costs(free[0].saves)}.")
        said += _of(free[1:], "{} [keeps|keep] quality too and [saves|save] no more.")
    elif not any(one.measured for one in judged):
        said.append("No time or memory was measured against dense, so no saving can be claimed.")
    elif priced:
        said.append("None saves without a price.")
    else:
        said.append(
            "None is worth it here: no method keeps dense's quality and saves time or memory by more than the "
            f"{NOISE:.0%} that counts as noise."
        )
    said += [f"{one.name} keeps quality, and {_costs(one.saves)}, but {_costs(one.pays)}." for one in priced]
    said += _of(
        [one for one in keep if one.pays and not one.saves], "{} [keeps|keep] quality but only [adds|add] cost."
    )
    same = [one for one in keep if one.measured and not one.pays and not one.saves]
    return said + _of(
        same,
        f"{{}} [keeps|keep] quality at dense's cost: what differs is within the {NOISE:.0%} that counts as noise.",
    )


def _unsure(judged: Sequence[Judgement]) -> list[str]:
    return _of(
        [one for one in judged if one.quality == "unclear"],
        "{} [is|are] above the interval, but [its own interval overlaps|their own intervals overlap] it: on this text "
        "that may be noise.",
        _perplexity,
    )


def _losses(judged: Sequence[Judgement]) -> list[str]:
    """Who reads as well but misses needles, who loses, who breaks, and of whom nothing is known."""

    def kind(quality: str) -> list[Judgement]:
        return [one for one in judged if one.quality == quality]

    return [
        *_of(
            kind("needles"),
            "{} [predicts|predict] the text about as well as dense but [misses|miss] needles that dense finds.",
            _needled,
        ),
        *_of(kind("loses"), "{} [loses|lose] quality beyond noise.", _perplexity),
        *_of(kind("breaks"), "{} [breaks|break] the model.", _broken),
        *_of([one for one in judged if one.perplexity is None], "The perplexity of {} was not measured."),
    ]


def _baseline(result: Result) -> list[str]:
    worse = [
        name for name, row in zip(names(result), rows(result), strict=True) if row.get("worse_than_baseline") is True
    ]
    if not worse:
        return []
    verb = "is" if len(worse) == 1 else "are"
    return [f"{fmt.listed(worse)} {verb} worse than a sliding window with sinks at equal density."]


def _needles(base: Row) -> list[str]:
    found = figure(base, "needle_accuracy")
    if found is None or found >= 0.5:
        return []
    return [f"Dense itself finds only {found:.0%} of the needles, so they say little about this model."]


def _stream(result: Result) -> list[str]:
    told = judge_streams(result)
    if not told:
        return []
    limit = fmt.tokens(told[0].limit)
    said = [
        f"{fmt.listed([_streamed(one) for one in group])} {verb}"
        for verb, group in (
            ("held", [one for one in told if one.held]),
            ("broke", [one for one in told if not one.held]),
        )
        if group
    ]
    return [f"In the stream, past the {limit} tokens that the model was trained for, {', while '.join(said)}."]


def _streamed(one: Stream) -> str:
    cache = "" if one.cache is None else f", cache {fmt.size(one.cache)} at the end"
    return f"{one.name} (perplexity {fmt.significant(one.perplexity)}{cache})"


def _perplexity(one: Judgement) -> str:
    return f"{one.name} (perplexity {fmt.significant(one.perplexity, 4)})"


def _needled(one: Judgement) -> str:
    if one.needles is None:
        return one.name
    mine, its, tried = one.needles
    return f"{one.name} ({mine} of {tried} needles, dense {its})"


def _broken(one: Judgement) -> str:
    return f"{one.name} (perplexity {fmt.significant(one.perplexity, 4)}, {fmt.ratio(one.times)} dense's)"


def _costs(costs: dict[str, float]) -> str:
    return fmt.listed([_COSTS[key].format(fmt.ratio(times)) for key, times in costs.items()])


def _of(group: Sequence[Judgement], pattern: str, say: Callable[[Judgement], str] = lambda one: one.name) -> list[str]:
    """The sentence about a group, `[one|many]` resolved; none about an empty group."""
    if not group:
        return []
    # Resolved before the names go in, which may hold brackets of their own.
    chosen = re.sub(r"\[([^|\]]*)\|([^\]]*)\]", r"\1" if len(group) == 1 else r"\2", pattern)
    return [chosen.format(fmt.listed([say(one) for one in group]))]
