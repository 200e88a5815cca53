"""Studies of heads: their rules on made figures, their data, and their measurements for a step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from regard.bench.studies import Row, grouped_time, mhe, moh, pay_better, sdconv, sqa, studies
from regard.bench.studies import knocking_heads as kha
from regard.bench.studies.walk import measured

SLOW = ("grouped_time", "knocking_heads", "mhe", "moh_balance", "pay_better", "sdconv", "sqa_loss")


def rows(values: dict[tuple[str, str], float], half: float = 0.001) -> list[Row]:
    return [Row(name, what, value, value - half, value + half, "") for (name, what), value in values.items()]


def test_none_of_three_may_fall_behind() -> None:
    names = [pay_better.OPTIMISED, pay_better.EFFICIENT, pay_better.MHA]
    good = {(name, pay_better.DIGITS): 90.0 for name in [*names, pay_better.SUPER[8]]}
    good |= {(name, pay_better.WORDS): 80.0 for name in [*names, pay_better.SUPER[16]]}
    assert pay_better.verdict(rows(good)) is True
    assert pay_better.verdict(rows({**good, (pay_better.EFFICIENT, pay_better.WORDS): 77.0})) is False
    assert pay_better.verdict(rows(good, 5.0)) is None


def test_one_head_must_be_beaten_and_many_nearly_reached() -> None:
    good = {(mhe.MHE, mhe.WHAT): 88.0, (mhe.MHA, mhe.WHAT): 90.0, (mhe.ONE, mhe.WHAT): 70.0}
    assert mhe.verdict(rows(good)) is True
    assert mhe.verdict(rows({**good, (mhe.ONE, mhe.WHAT): 89.0})) is False
    assert mhe.verdict(rows({**good, (mhe.MHA, mhe.WHAT): 94.0})) is False


def test_convolved_heads_must_beat_both() -> None:
    good = {(sdconv.OWN, sdconv.WHAT): 1.0, (sdconv.DYNAMIC, sdconv.WHAT): 1.1, (sdconv.PLAIN, sdconv.WHAT): 1.1}
    assert sdconv.verdict(rows(good)) is True
    assert sdconv.verdict(rows({**good, (sdconv.PLAIN, sdconv.WHAT): 0.9})) is False


def test_a_shared_transform_must_beat_its_host_and_the_random_start() -> None:
    good = {(kha.OWN, kha.WHAT): 1.0, (kha.HOST, kha.WHAT): 1.1, (kha.RANDOM, kha.WHAT): 1.2}
    assert kha.verdict(rows(good)) is True
    assert kha.verdict(rows({**good, (kha.RANDOM, kha.WHAT): 0.9})) is False


def test_balance_must_even_out_and_cost_nothing() -> None:
    good = {
        (moh.OWN, moh.BUSY.format(moh.WITH)): 1.1,
        (moh.OWN, moh.BUSY.format(moh.WITHOUT)): 1.5,
        (moh.OWN, moh.LOSS.format(moh.WITH)): 2.01,
        (moh.PLAIN, "char_lm, loss"): 2.0,
    }
    assert moh.verdict(rows(good)) is True
    assert moh.verdict(rows({**good, (moh.OWN, moh.BUSY.format(moh.WITH)): 1.6})) is False
    assert moh.verdict(rows({**good, (moh.OWN, moh.LOSS.format(moh.WITH)): 2.03})) is False
    assert [moh.faster(rows({(moh.HALF, moh.SPEED): value})) for value in (0.9, 1.0, 1.1)] == [True, None, False]


def test_half_the_queries_may_lose_one_part_in_a_hundred() -> None:
    assert [sqa.near(rows({(sqa.SYMMETRIC, sqa.OVER): value})) for value in (1.005, 1.01, 1.02)] == [True, None, False]


def test_groups_must_be_as_good_and_quicker() -> None:
    own, plain = grouped_time.GROUPED, grouped_time.PLAIN
    good = {
        (own, grouped_time.WRONG): 12.0,
        (plain, grouped_time.WRONG): 10.0,
        (plain, grouped_time.LINEAR): 60.0,
        (own, grouped_time.SPEED): 0.5,
    }
    assert grouped_time.verdict(rows(good)) is True
    for key, value in (((own, grouped_time.WRONG), 16.0), ((own, grouped_time.SPEED), 1.2)):
        assert grouped_time.verdict(rows({**good, key: value})) is False
    assert grouped_time.verdict(rows({**good, (plain, grouped_time.LINEAR): 11.0})) is False


def test_errors_are_the_least_edits() -> None:
    told = torch.tensor([[3, 3, 10, 3, 5, 10], [10, 1, 1, 2, 10, 10]])  # 3 3 5 and 1 2
    asked = torch.tensor([[3, 4, 5, 0], [1, 2, 7, 0]])
    assert grouped_time.errors(told, asked, torch.tensor([3, 3])) == pytest.approx(100 * 2 / 6)


def test_made_data_are_what_is_asked() -> None:
    source = torch.Generator().manual_seed(0)
    ids, asked = mhe.pairs(source, 50)
    for row, want in zip(ids.tolist(), asked.tolist(), strict=True):
        families = [[one for one in row if one // mhe.KINDS == family] for family in range(4)]
        assert all(len(family) == 2 for family in families)
        assert sum(len(set(family)) == 1 for family in families) == want
    said, praised = pay_better.words(source, 50)
    for row, want in zip(said.tolist(), praised.tolist(), strict=True):
        total = 0
        for n, word in enumerate(row):
            way = 1 if word < 5 else -1 if word < 10 else 0
            total += -way if n and row[n - 1] == 10 else way
        assert (total > 0) == want
    frames, digits, count = grouped_time.sound(source, 3)
    assert frames.shape == (3, grouped_time.FRAMES, grouped_time.MELS)
    assert digits.shape == (3, 6)
    assert ((count >= 3) & (count <= 6)).all()
    images, _ = pay_better.digits(source, 3)
    assert images.shape == (3, 8, 8)


def test_a_study_measures() -> None:
    result = measured(replace(studies()["moh_gathered"], steps=1, seeds=1))
    assert len({one["mechanism"] for one in result["rows"]}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW))
def test_a_slow_study_measures(name: str) -> None:
    result = measured(replace(studies()[name], steps=1, seeds=1))
    assert len({one["mechanism"] for one in result["rows"]}) > 1
