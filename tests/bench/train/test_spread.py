"""What several seeds say together."""

from __future__ import annotations

import math
from typing import Any

import pytest

from regard.bench.train.spread import interval, rows


def test_the_interval_is_student_s() -> None:
    assert interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 4.303 / math.sqrt(3), 2 + 4.303 / math.sqrt(3)))
    assert interval([1.0, 3.0]) == pytest.approx((2 - 12.706, 2 + 12.706))
    assert interval([0.5]) is None
    assert interval([0.9, 1.0], low=0.0, high=1.0) == (pytest.approx(0.95 - 12.706 * 0.05), 1.0)
    ends = interval([float(n) for n in range(41)])
    assert ends is not None
    assert ends[1] - 20 == pytest.approx(2.021 * math.sqrt(41 * 42 / 12) / math.sqrt(41), rel=0.01)


def run(seed: int, **more: Any) -> dict[str, Any]:
    made = {
        "mechanism": "a", "seed": seed, "metric": 0.5, "steps_to_target": 10 * (seed + 1), "seconds_to_target": 1.0,
        "seconds": 2.0, "step_ms": 3.0, "peak_bytes": 7 + seed, "lengths": {"8": 0.5, "16": None}, "shifts": {},
    }  # fmt: skip
    return {**made, **more}


def test_a_row_is_over_its_own_seeds() -> None:
    (row,) = rows([run(0, metric=0.2), run(1, metric=0.4), run(2, mechanism="b")], ["a", "c"], "accuracy")
    assert row["mechanism"] == "a"
    assert row["seeds"] == row["reached"] == 2
    assert row["metric"] == pytest.approx(0.3)
    assert row["steps_to_target"] == 15
    assert row["peak_bytes"] == 8
    assert row["lengths"] == {"8": 0.5, "16": None}
    assert row["interval"][0] == 0.0  # cut at what is possible
    assert row["interval"][1] == 1.0


def test_steps_to_the_target_are_told_only_where_every_seed_reaches_it() -> None:
    (row,) = rows([run(0), run(1, steps_to_target=None, seconds_to_target=None)], ["a"], "accuracy")
    assert row["reached"] == 1
    assert row["steps_to_target"] is None
    assert row["seconds_to_target"] is None


def test_a_mechanism_that_broke_has_no_mean() -> None:
    (row,) = rows([run(0), run(1, metric=None, lengths={})], ["a"], "accuracy")
    assert row["broke"] == 1
    assert row["metric"] is None
    assert row["interval"] is None
    assert row["lengths"] == {"8": None, "16": None}
