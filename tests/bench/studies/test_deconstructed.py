"""The study of attention's principles: its rule on made figures, a run of two steps, and the tasks planted for it."""

from __future__ import annotations

import dataclasses

import pytest

from regard.bench.studies import Row
from regard.bench.studies import deconstructed as study
from regard.bench.studies.study import pick
from regard.bench.studies.walk import measured, table
from regard.bench.tasks import task
from regard.bench.train.evaluate import evaluate
from regard.bench.train.settings import Settings
from tests.bench.studies.planted import Copy

UNIFORM = {
    study.STANDARD: 2.0,
    study.TAYLOR: 2.1,
    study.STATIC: 2.2,
    study.FIXED: 2.25,
    study.OWN: 2.4,
    study.NONE: 2.6,
}


def rows(half: float = 0.01, **changes: dict[str, float]) -> list[Row]:
    hybrid = dict.fromkeys(study.OTHERS, 2.05)
    skipped = dict.fromkeys(study.OTHERS, 4.0)
    told = {study.UNIFORM: UNIFORM, study.HYBRID: hybrid, study.SKIPPED: skipped}
    return [
        Row(name, what, value, value - half, value + half, "nats")
        for key, what in (("uniform", study.UNIFORM), ("hybrid", study.HYBRID), ("skipped", study.SKIPPED))
        for name, value in {**told[what], **changes.get(key, {})}.items()
    ]


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({}, True),
        ({"uniform": {study.TAYLOR: 1.9}}, False),
        ({"uniform": {study.STATIC: 2.0}}, False),
        ({"uniform": {study.FIXED: 2.1}}, None),  # too close to taylor to tell
        ({"uniform": {study.FIXED: 2.2}}, True),  # the two with maps of their own are not told apart
        ({"uniform": {study.OWN: 2.21}}, False),
        ({"uniform": {study.NONE: 2.3}}, False),
        ({"hybrid": {study.OWN: 2.3}}, False),  # more than a tenth above standard attention
        ({"hybrid": {study.TAYLOR: 2.105}}, None),
        ({"hybrid": {study.TAYLOR: 2.15}}, False),  # near, but above its uniform form
        ({"skipped": {study.NONE: 2.5}}, False),
        ({"skipped": {study.NONE: 2.605}}, None),
    ],
)
def test_the_rule(changes: dict[str, dict[str, float]], shown: bool | None) -> None:
    assert study.verdict(rows(**changes)) is shown


def test_the_rule_needs_every_figure_and_narrow_intervals() -> None:
    assert study.verdict(rows()[1:]) is None
    assert study.verdict(rows(half=0.2)) is None


def test_the_study_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "pretrained", list)
    monkeypatch.setattr(study, "OTHERS", (study.TAYLOR, study.NONE))
    monkeypatch.setattr(study, "LAYERS", 2)
    told: list[float] = []
    result = measured(dataclasses.replace(study.STUDY, steps=1, seeds=2), lambda doing, done: told.append(done))
    assert len(result["rows"]) == 3 + 2 + 2
    assert all(one["low"] <= one["value"] <= one["high"] for one in result["rows"])
    assert told == sorted(told)
    assert len(set(told)) == 2 * 5
    assert "## deconstructed" in table([result])
    found = [Row(**one) for one in result["rows"]]
    for name in study.OTHERS:
        whole, fewer = pick(found, name, study.HYBRID), pick(found, name, study.SKIPPED)
        assert whole is not None
        assert fewer is not None
        assert whole.value != fewer.value


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "least", "most"),
    [
        (study.STANDARD, 0.95, 1.0),
        (study.NONE, 0.0, 0.15),
        (study.OWN, 0.0, 0.5),
        (f"{study.STANDARD}/{study.OWN}", 0.95, 1.0),
        (f"{study.STANDARD}/{study.NONE}", 0.95, 1.0),
    ],
)
def test_copying_takes_pairs_in_one_layer_of_two(names: str, least: float, most: float) -> None:
    settings = Settings(steps=150, length=16, layers=2, rate=4e-3)
    model = study.trained(names, settings, 0, Copy())
    assert least <= evaluate(model, Copy(), 16, 256)["accuracy"] <= most


@pytest.mark.slow
@pytest.mark.parametrize("names", [study.STANDARD, study.OWN, study.NONE])
def test_recall_takes_pairs_in_both_layers_of_two(names: str) -> None:
    settings = Settings(steps=400, length=32, layers=2)
    model = study.trained(names, settings, 0, task("mqar"))
    accuracy = evaluate(model, task("mqar"), 32, 256)["accuracy"]
    assert accuracy > 0.95 if names == study.STANDARD else accuracy < 0.5


@pytest.mark.checkpoint
def test_the_indicators_of_a_real_model() -> None:
    found = {row.what: row.value for row in study.pretrained()}
    assert len(found) == 8 * len(study.SHOWN)
    of = {
        layer: {what: found[f"smollm2-135m, layer {layer}, {what}"] for what in ("entropy", "sink", "concentration")}
        for layer in study.SHOWN
    }
    # The first layer spreads its weights, and later ones put much of them on the first token.
    assert of[0]["entropy"] > max(of[layer]["entropy"] for layer in study.SHOWN[1:])
    assert of[0]["sink"] < 0.05 < 0.2 < of[19]["sink"]
    assert all(1 <= one["concentration"] <= study.READ**0.5 for one in of.values())
