"""The verdict: each rule on a result that differs from another in the one figure that the rule looks at."""

import random
import re
from collections.abc import Callable
from typing import Any

import pytest

from regard.bench.report import verdict
from regard.bench.report.judge import COSTS, RULES, judge
from regard.bench.report.verdict import sentences

Find = Callable[[str], dict[str, Any]]


def _only(result: dict[str, Any], *methods: str) -> dict[str, Any]:
    result["rows"] = [row for row in result["rows"] if row["method"] in ("dense", *methods)]
    result["stream"] = []
    return result


def test_the_answer_comes_first_and_names_the_savings(result: dict[str, Any]) -> None:
    assert sentences(result)[0] == (
        "Worth it: power_attention keeps dense's quality at the least cost: prefill takes 0.66× the time and peak "
        "memory is 0.72× dense's."
    )
    assert verdict(result) == " ".join(sentences(result))


def test_every_method_is_spoken_of(result: dict[str, Any]) -> None:
    said = verdict(result)
    assert [row["method"] for row in result["rows"][1:] if row["method"] not in said] == []


def test_least_cost_is_the_geometric_mean_over_what_was_measured(result: dict[str, Any], row: Find) -> None:
    cheap = row("spargeattn")
    # Prefill alone: 0.66 * 0.72 over four costs against 0.4 over one.
    cheap |= {"relative": {"prefill_seconds": 0.4}, "break_even": 512}
    by = {one.name: one for one in judge(_only(result, "power_attention", "spargeattn"))}
    assert by["power_attention"].cost == pytest.approx((0.66 * 0.72) ** 0.25)
    assert by["spargeattn"].cost == pytest.approx(0.4)
    assert sentences(result)[0].startswith("Worth it: spargeattn")
    assert "power_attention keeps quality too and saves no more." in verdict(result)


@pytest.mark.parametrize("seed", range(20))
def test_no_saving_is_claimed_inside_the_noise(result: dict[str, Any], row: Find, seed: int) -> None:
    rng = random.Random(seed)
    row("spargeattn")["relative"] = {cost: rng.uniform(0.901, 1.099) for cost in COSTS}
    said = verdict(_only(result, "spargeattn"))
    assert said.startswith("None is worth it here")
    assert "what differs is within the 10% that counts as noise" in said
    assert not re.search(r"prefill|decoded|cache|peak", said)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize(("times", "worth"), [(0.89, True), (0.91, False)])
def test_one_saving_beyond_the_noise_is_enough(
    result: dict[str, Any], row: Find, cost: str, times: float, worth: bool
) -> None:
    row("spargeattn").update(relative=dict.fromkeys(COSTS, 1.0) | {cost: times}, break_even=512)
    assert verdict(_only(result, "spargeattn")).startswith("Worth it: spargeattn" if worth else "None is worth it")


def test_a_shorter_prefill_is_not_believed_where_attention_alone_was_never_faster(
    result: dict[str, Any], row: Find
) -> None:
    one = row("power_attention")
    one["relative"] = {"prefill_seconds": 0.66}
    _only(result, "power_attention")
    assert verdict(result).startswith("Worth it")
    one["break_even"] = None
    assert verdict(result).startswith("None is worth it")
    # Timed at shorter lengths alone, it contradicts nothing.
    one["break_even_times"] = [entry for entry in one["break_even_times"] if entry[0] < 4096]
    assert verdict(result).startswith("Worth it")


def test_a_price_is_told_with_the_saving(result: dict[str, Any], row: Find) -> None:
    row("spargeattn")["relative"] = {"kv_bytes": 0.25, "prefill_seconds": 1.5}
    assert sentences(_only(result, "spargeattn"))[0] == "None saves without a price."
    assert (
        "spargeattn keeps quality, and the key/value cache has 0.25× the bytes, but prefill takes 1.50× the time."
        in sentences(result)
    )


def test_a_method_that_only_costs_is_not_worth_it(result: dict[str, Any]) -> None:
    said = sentences(_only(result, "oracle_top_k"))
    assert said[0].startswith("None is worth it here")
    assert "oracle_top_k keeps quality but only adds cost." in said


@pytest.mark.parametrize(
    ("perplexity", "interval", "quality"),
    [
        (17.0, [16.2, 17.9], "keeps"),
        (18.2, [17.3, 19.2], "keeps"),  # dense's interval ends at 18.227
        (18.3, [17.4, 19.3], "unclear"),
        (19.4, [18.3, 20.4], "loses"),
        (19.4, None, "loses"),
        (34.7, [17.0, 40.0], "breaks"),
        (None, None, "unknown"),
    ],
)
def test_quality(
    result: dict[str, Any], row: Find, perplexity: float | None, interval: list[float] | None, quality: str
) -> None:
    row("spargeattn").update(perplexity=perplexity, perplexity_interval=interval)
    assert [one.quality for one in judge(_only(result, "spargeattn"))] == [quality]


@pytest.mark.parametrize(("missed", "quality"), [(0, "keeps"), (1, "keeps"), (2, "needles"), (10, "needles")])
def test_needles_beyond_chance_are_a_loss(result: dict[str, Any], row: Find, missed: int, quality: str) -> None:
    for at, needle in enumerate(row("spargeattn")["needles"]):
        needle["correct"] = at >= missed
    judged = judge(_only(result, "spargeattn"))
    assert [one.quality for one in judged] == [quality]
    assert (f"spargeattn ({10 - missed} of 10 needles, dense 10) predicts" in verdict(result)) == (quality == "needles")


def test_no_quality_is_kept_where_dense_has_no_interval(result: dict[str, Any], row: Find) -> None:
    row("dense")["perplexity_interval"] = None
    said = verdict(result)
    assert "No interval was measured" in said
    assert "Worth it" not in said
    assert "sliding_window (perplexity 312.4, 18.0× dense's) breaks the model." in said


def test_what_breaks_and_what_is_worse_than_the_baseline(result: dict[str, Any]) -> None:
    said = sentences(result)
    assert "sliding_window (perplexity 312.4, 18.0× dense's) breaks the model." in said
    assert "random_blocks (perplexity 22.40) loses quality beyond noise." in said
    assert "sliding_window and random_blocks are worse than a sliding window with sinks at equal density." in said


def test_needles_that_dense_itself_misses_are_not_trusted(result: dict[str, Any], row: Find) -> None:
    row("dense")["needle_accuracy"] = 0.2
    assert "Dense itself finds only 20% of the needles, so they say little about this model." in sentences(result)


def test_the_stream_tells_who_held_and_who_broke(result: dict[str, Any]) -> None:
    last = sentences(result)[-1]
    assert last.startswith("In the stream, past the 8,192 tokens that the model was trained for, streaming_llm (")
    held, broke = last.split(" held, while ")
    assert "cache 11.8 MB" in held
    assert "sliding_window" in broke
    assert broke.startswith("dense (")
    assert broke.endswith("broke.")


def test_a_stream_that_never_passes_the_trained_context_is_not_judged(result: dict[str, Any]) -> None:
    for stream in result["stream"]:
        stream["points"] = stream["points"][:8]
    assert "stream, past" not in verdict(result)


@pytest.mark.parametrize("method", [None, "dense"])
def test_nothing_to_compare(result: dict[str, Any], method: str | None) -> None:
    if method is None:
        result["rows"] = result["rows"][1:]
        assert verdict(result).startswith("There is no measured dense row")
    else:
        assert verdict(_only(result)) == "Only dense was measured, so there is nothing to compare it with."
    assert verdict({}).startswith("There is no measured dense row")


def test_nothing_is_saved_where_nothing_was_measured(result: dict[str, Any]) -> None:
    for row in result["rows"]:
        row["relative"] = dict.fromkeys(COSTS)
    assert sentences(result)[0] == "No time or memory was measured against dense, so no saving can be claimed."


def test_brackets_and_braces_in_a_name_stay_as_they_are(result: dict[str, Any], row: Find) -> None:
    row("oracle_top_k")["method"] = "o[a|b]{x}"
    assert "o[a|b]{x} keeps quality but only adds cost." in sentences(result)


def test_the_rules_have_the_numbers_that_they_are_made_of() -> None:
    said = " ".join(RULES)
    assert all(number in said for number in ("10%", "2 needles", "2 times"))
