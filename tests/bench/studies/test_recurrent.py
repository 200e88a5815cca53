"""The studies of mechanisms with a state of fixed size: their rules on made figures, and a measure of one step."""

from __future__ import annotations

from dataclasses import replace

import pytest

from regard.bench.studies import Row, studies
from regard.bench.studies.rat import BYTES, LOSS, STEP, name
from regard.bench.studies.recurrent import EXP, GAM, LATTE, LIGHTNET, LIGHTNING, PLAIN, RECALL, SOFTPLUS, SUMS, TEXT
from regard.bench.studies.walk import measured


def row(mechanism: str, what: str, value: float, half: float | None = 0.01) -> Row:
    low, high = (None, None) if half is None else (value - half, value + half)
    return Row(mechanism, what, value, low, high, "nats")


@pytest.mark.parametrize(
    ("study", "own", "other"),
    [("latte", LATTE, PLAIN), ("lightning_attention", LIGHTNING, PLAIN), ("lightnet", LIGHTNET, LIGHTNING)],
)
def test_losses_may_lie_a_margin_apart(study: str, own: str, other: str) -> None:
    verdict = studies()[study].verdict
    assert verdict([row(own, TEXT, 2.03), row(other, TEXT, 2.0)]) is True
    assert verdict([row(own, TEXT, 1.5), row(other, TEXT, 2.0)]) is True
    assert verdict([row(own, TEXT, 2.05), row(other, TEXT, 2.0)]) is None
    assert verdict([row(own, TEXT, 2.1), row(other, TEXT, 2.0)]) is False
    assert verdict([row(own, TEXT, 2.1)]) is None
    assert verdict([row(own, TEXT, 2.1, None), row(other, TEXT, 2.0)]) is None


def test_gam_must_keep_up_on_text_and_lose_on_recall() -> None:
    verdict = studies()["gam"].verdict
    text = [row(GAM, TEXT, 2.0), row(PLAIN, TEXT, 2.0)]
    assert verdict([*text, row(GAM, RECALL, 10), row(PLAIN, RECALL, 90)]) is True
    assert verdict([*text, row(GAM, RECALL, 95), row(PLAIN, RECALL, 90)]) is False
    assert verdict([*text, row(GAM, RECALL, 90), row(PLAIN, RECALL, 90)]) is None
    assert verdict([row(GAM, TEXT, 2.5), text[1], row(GAM, RECALL, 10), row(PLAIN, RECALL, 90)]) is False


def test_both_normalisers_must_recall_more_than_sums() -> None:
    verdict = studies()["dsf"].verdict
    sums = row(SUMS, RECALL, 50)
    assert verdict([sums, row(EXP, RECALL, 60), row(SOFTPLUS, RECALL, 70)]) is True
    assert verdict([sums, row(EXP, RECALL, 60), row(SOFTPLUS, RECALL, 50)]) is None
    assert verdict([sums, row(EXP, RECALL, 40), row(SOFTPLUS, RECALL, 70)]) is False


def test_chunks_must_keep_the_loss_and_drop_the_bytes() -> None:
    verdict = studies()["rat"].verdict

    def rows(loss: float, kept: float) -> list[Row]:
        losses = [row(name(1), LOSS, 2.0), row(name(16), LOSS, loss)]
        return [*losses, row(name(1), BYTES, 1600, 0), row(name(16), BYTES, kept, 0)]

    assert verdict(rows(2.03, 110)) is True
    assert verdict(rows(2.05, 110)) is None
    assert verdict(rows(2.2, 110)) is False
    assert verdict(rows(2.0, 300)) is False
    assert verdict(rows(2.0, 110)[:3]) is None


def test_a_study_of_recall_measures_for_a_step() -> None:
    result = measured(replace(studies()["dsf"], steps=1, seeds=2))
    assert {(one["mechanism"], one["what"]) for one in result["rows"]} == {
        (m, RECALL) for m in (EXP, SOFTPLUS, SUMS, PLAIN)
    }


@pytest.mark.slow
@pytest.mark.parametrize("study", ["gam", "latte", "lightning_attention", "lightnet"])
def test_a_study_of_text_measures_for_a_step(study: str) -> None:
    result = measured(replace(studies()[study], steps=1, seeds=1))
    assert len({one["mechanism"] for one in result["rows"]}) > 1


@pytest.mark.slow
def test_the_study_of_chunks_measures_for_a_step() -> None:
    rows = measured(replace(studies()["rat"], steps=1, seeds=1))["rows"]
    assert {one["what"] for one in rows} == {LOSS, STEP, BYTES}
    kept = {one["mechanism"]: one["value"] for one in rows if one["what"] == BYTES}
    assert kept[name(1)] > 15 * kept[name(16)]
