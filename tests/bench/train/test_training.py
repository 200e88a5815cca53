"""The whole benchmark: what is in the result, and going on with it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from regard.bench.tasks import task
from regard.bench.train.entrant import entrants
from regard.bench.train.floor import TWIN
from regard.bench.train.training import read, train
from regard.errors import RegardError
from tests.bench.train.made import TASK, TINY, result

TIMES = ("seconds_to_target", "seconds", "step_ms", "peak_bytes")


def figures(found: dict[str, Any]) -> list[dict[str, Any]]:
    runs = sorted(found["runs"], key=lambda run: (run["mechanism"], run["seed"]))
    return [{key: value for key, value in run.items() if key not in TIMES} for run in runs]


def test_every_mechanism_is_trained_from_every_seed_and_the_twin_besides(tmp_path: Path) -> None:
    found = result(folder=tmp_path)
    names = ["softmax", "sliding_window:window=2"]
    assert {(run["mechanism"], run["seed"]) for run in found["runs"]} == {
        (name, seed) for name in (*names, TWIN) for seed in range(2)
    }
    assert len(found["runs"]) == 6
    assert [row["mechanism"] for row in found["rows"]] == names
    assert found["floor"]["seeds"] == [0, 1]
    assert found["parameters"]["softmax"] == found["rows"][0]["parameters"] > 1000
    assert json.loads((tmp_path / "train.json").read_text()) == json.loads(json.dumps(found))
    assert len(list((tmp_path / "checkpoints").iterdir())) == 6


def test_without_the_floor_the_twin_is_not_trained() -> None:
    found = result("sliding_window:window=2", measure_floor=False)
    assert {run["mechanism"] for run in found["runs"]} == {"sliding_window:window=2"}
    assert found["floor"]["value"] is None


def test_lengths_and_variants_are_tested() -> None:
    found = train(task("flip_flop"), entrants(["learned:length=40"]), TINY, measure_floor=False)
    lengths = found["rows"][0]["lengths"]
    assert list(lengths) == ["4", "8", "16", "32", "64", "128"]
    assert all(0 <= lengths[name] <= 1 for name in ("4", "8", "16", "32"))
    assert lengths["64"] is lengths["128"] is None  # past the positions that were learned
    assert set(found["rows"][0]["shifts"]) == {"sparse", "dense"}


@pytest.mark.parametrize("after", [0.1, 0.45, 0.8])
def test_an_interrupted_benchmark_goes_on_to_the_same_end(after: float, tmp_path: Path) -> None:
    whole = result(folder=tmp_path / "whole")

    def stop(doing: str, done: float) -> None:
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        result(folder=tmp_path / "part", progress=stop)
    told: list[float] = []
    again = result(folder=tmp_path / "part", resume=True, progress=lambda doing, done: told.append(done))
    assert figures(again) == figures(whole)
    assert len(told) < 6 * TINY.steps + 1
    assert told[-1] == 1.0


def test_more_seeds_and_mechanisms_may_be_asked_of_what_is_there(tmp_path: Path) -> None:
    one = dataclasses.replace(TINY, seeds=1)
    first = result("softmax", settings=one, folder=tmp_path)
    more = result("softmax", "alibi", folder=tmp_path, resume=True)
    assert len(first["runs"]) == 2
    assert len(more["runs"]) == 6
    assert figures(first) == [run for run in figures(more) if run["seed"] == 0 and run["mechanism"] != "alibi"]
    assert more["rows"][0]["seeds"] == 2


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"settings": dataclasses.replace(TINY, steps=7)}, "was trained with another settings (steps: 6, now 7)"),
        ({"task": task("mqar:pairs=3")}, "was trained with another task (label: mqar, now mqar:pairs=3)"),
        ({"position": "none"}, "was trained with position rope, now none; type --position rope"),
    ],
)
def test_another_run_is_not_gone_on_with(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    result("softmax", folder=tmp_path)
    before = (tmp_path / "train.json").read_text()
    given = {"task": TASK, "settings": TINY, "position": None, **change}
    with pytest.raises(RegardError) as error:
        train(entrants=entrants(["softmax"]), folder=tmp_path, resume=True, **given)
    assert said in str(error.value)
    assert (tmp_path / "train.json").read_text() == before


def test_a_fresh_run_over_an_old_one_begins_again(tmp_path: Path) -> None:
    result("softmax", folder=tmp_path)
    told: list[float] = []
    found = result("softmax", folder=tmp_path, progress=lambda doing, done: told.append(done))
    assert len(told) == 4 * TINY.steps + 1
    assert len(found["runs"]) == 4


def test_nothing_is_trained_where_one_mechanism_can_t_be(tmp_path: Path) -> None:
    with pytest.raises(RegardError, match="sliding_window:window=0 can't be trained here"):
        result("softmax", "sliding_window:window=0", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_result_of_train(tmp_path: Path) -> None:
    path = tmp_path / "train.json"
    for foreign in ("[1]", '{"schema": 1, "rows": []}', '{"schema": 1, "kind": "train", "runs": 7}', "not json"):
        path.write_text(foreign)
        with pytest.raises(RegardError, match=r"Type the command without --resume\."):
            read(path)
    with pytest.raises(RegardError, match="There is nothing to resume"):
        read(tmp_path / "none.json")
