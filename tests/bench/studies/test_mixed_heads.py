"""The studies of layers whose heads are of several kinds: their data, their measures, their rules."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from regard.bench.studies import Row, Study, dual_attention, mqsa_ted, mw_mha
from regard.bench.studies.walk import measured


def _row(mechanism: str, what: str, value: float) -> Row:
    return Row(mechanism, what, value, value - 0.01, value + 0.01, "")


def test_hits_and_gains_of_known_ranks() -> None:
    scores, wanted = torch.tensor([[3.0, 2.0, 1.0], [1.0, 3.0, 2.0], [1.0, 2.0, 3.0]]), torch.tensor([0, 2, 0])
    assert mqsa_ted.hit_rate(scores, wanted, 2) == pytest.approx(200 / 3)
    assert mqsa_ted.ndcg(scores, wanted, 2) == pytest.approx(100 / 3 * (1 + 1 / math.log2(3)))


def test_histories_are_of_different_items_and_partners_follow() -> None:
    data = mqsa_ted.histories(200, torch.Generator().manual_seed(0))
    assert all(len(set(row)) == mqsa_ted.LENGTH for row in data.ids.tolist())
    after: dict[int, set[int]] = {}
    for row, led in zip(data.ids.tolist(), data.partners.tolist(), strict=True):
        if led:
            assert row[-2] % 3 == 0
            after.setdefault(row[-2], set()).add(row[-1])
    assert all(len(items) == 1 for items in after.values())
    assert 0.05 < data.partners.double().mean() < 0.3


def test_games_are_as_they_are_answered() -> None:
    x, y = dual_attention.games(300, torch.eye(64), torch.Generator().manual_seed(0))
    first, second = x.argmax(-1).T
    assert (first == second).long().tolist() == y.tolist()
    assert 0.4 < y.double().mean() < 0.6


def test_judges_are_of_one_size() -> None:
    sizes = [
        sum(p.numel() for p in dual_attention.judge(text, 0).parameters())
        for text in (dual_attention.DUAL, dual_attention.PLAIN)
    ]
    assert all(0.99 * 28_000 <= size <= 28_000 for size in sizes)
    with pytest.raises(ValueError, match="needs room for its maps within 100 parameters"):
        dual_attention.judge(dual_attention.PLAIN, 0, 100)


def test_what_is_masked_is_not_read() -> None:
    torch.manual_seed(0)
    model, patches = mw_mha.Autoencoder(mw_mha.WINDOWS).eval(), torch.randn(2, mw_mha.PLACES, 16)
    order = torch.stack([torch.randperm(mw_mha.PLACES) for _ in range(2)])
    other = patches.scatter(1, order[:, mw_mha.SEEN :, None].expand(-1, -1, 16), 0.0)
    torch.testing.assert_close(model(other, order), model(patches, order))


def test_rules_say_what_they_say() -> None:
    few, dual, plain = dual_attention.what(dual_attention.FEW), dual_attention.DUAL, dual_attention.PLAIN
    assert dual_attention.verdict([_row(dual, few, 90), _row(plain, few, 60)]) is True
    assert dual_attention.verdict([_row(dual, few, 60), _row(plain, few, 90)]) is False
    hits = {("short", "hits"): 10.0, ("long", "hits"): 10.0, ("both", "hits"): 20.0, ("both", "partners"): 20.0}
    hits[("both and distilled", "partners")] = 30.0

    def told(**changes: float) -> bool | None:
        values = hits | {
            ("both" if key == "partners" else key, "partners" if key == "partners" else "hits"): v
            for key, v in changes.items()
        }
        return mqsa_ted.verdict([_row(mqsa_ted.NAME, mqsa_ted.what(*key), value) for key, value in values.items()])

    assert told() is True
    assert told(short=30) is False
    assert told(long=20) is None
    assert told(partners=40) is False
    error, alike = (_row(mw_mha.WINDOWS, mw_mha.LOSS, 0.5), _row(mw_mha.PLAIN, mw_mha.LOSS, 0.5)), mw_mha.WINDOWS
    assert mw_mha.verdict([*error, _row(alike, mw_mha.ALIKE, 0.6), _row(alike, mw_mha.UNLIKE, 0.4)]) is True
    assert mw_mha.verdict([*error, _row(alike, mw_mha.ALIKE, 0.4), _row(alike, mw_mha.UNLIKE, 0.6)]) is False
    assert (
        mw_mha.verdict(
            [_row(alike, mw_mha.LOSS, 0.9), error[1], _row(alike, mw_mha.ALIKE, 0.6), _row(alike, mw_mha.UNLIKE, 0.4)]
        )
        is False
    )
    assert mw_mha.verdict([]) is None


@pytest.mark.parametrize("study", [dual_attention.STUDY, mqsa_ted.STUDY, mw_mha.STUDY], ids=lambda study: study.name)
def test_a_study_measures(study: Study) -> None:
    result = measured(replace(study, steps=1, seeds=1))
    assert result["rows"]
    assert all(math.isfinite(row["value"]) for row in result["rows"])
