"""The study of the adaptive filter: its system, its floor, its rule, and its measurement for a step."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from regard.bench.studies import Row, adaptive_filter, studies
from regard.bench.studies.adaptive_filter import (
    AFA,
    DECAY,
    DECAYS,
    LENGTH,
    NOISES,
    PLAIN,
    STATE,
    TURN,
    TURNS,
    error,
    floor,
    kalman,
    spread,
    tracks,
    verdict,
    within,
)
from regard.bench.studies.walk import measured, table


def test_tracks_are_those_of_the_system() -> None:
    seen, states = tracks(4000, 0.7, torch.Generator().manual_seed(0))
    now, then = (torch.complex(*states[:, part].unbind(-1)) for part in (slice(None, -1), slice(1, None)))
    assert math.isclose(float(now.abs().square().mean()), STATE, rel_tol=0.05)
    step = (now.conj() * then).mean() / now.abs().square().mean()
    assert math.isclose(float(step.abs()), math.exp(-DECAY), rel_tol=0.02)
    assert math.isclose(float(step.angle()), TURN, rel_tol=0.02)
    off = seen[:, 1:] - states[:, :-1]  # an observation is of the state before
    assert math.isclose(float(off.square().sum(-1).mean()), 0.7**2, rel_tol=0.02)


def test_the_kalman_filter_is_the_best_linear_prediction() -> None:
    """Its guess of the last state equals the regression on all observations, from the covariances of the system."""
    noise, N = 0.8, 6
    at = torch.arange(N + 1).double()
    gaps = at[:, None] - at
    real = STATE / 2 * torch.exp(-DECAY * gaps.abs())
    cos, sin = (gaps * TURN).cos() * real, (gaps * TURN).sin() * real
    cov = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)  # [n, m, 2, 2]
    whole = cov.permute(0, 2, 1, 3).reshape(2 * N + 2, 2 * N + 2)
    of_seen = whole[:-2, :-2] + noise**2 / 2 * torch.eye(2 * N)
    seen = torch.randn(3, N, 2, generator=torch.Generator().manual_seed(1))
    want = seen.double().flatten(1) @ torch.linalg.solve(of_seen, whole[:-2, -2:])
    assert torch.allclose(kalman(seen, noise)[:, -1].double(), want, atol=1e-5)


def rows(**changed: float) -> list[Row]:
    values = {
        (AFA, error(NOISES[0])): ("near", 0.2),
        (PLAIN, error(NOISES[0])): ("plain", 0.3),
        (AFA, floor(NOISES[0])): ("floor", 0.19),
        (AFA, error(NOISES[1])): ("far", 0.4),
        (PLAIN, error(NOISES[1])): ("other", 0.5),
        (AFA, floor(NOISES[1])): ("best", 0.39),
        (AFA, TURNS): ("turn", 1.02),
        (AFA, DECAYS): ("decay", 0.8),
        (AFA, spread(NOISES[0])): ("narrow", 5.0),
        (AFA, spread(NOISES[1])): ("wide", 9.0),
    }
    return [
        Row(name, what, changed.get(key, value), changed.get(key, value) - 0.01, changed.get(key, value) + 0.01, "")
        for (name, what), (key, value) in values.items()
    ]


def test_every_part_of_the_rule_counts() -> None:
    assert verdict(rows()) is True
    for key, value in (("plain", 0.1), ("other", 0.3), ("floor", 0.1), ("best", 0.2), ("turn", 1.3), ("decay", 0.3)):
        assert verdict(rows(**{key: value})) is False, key
    assert verdict(rows(wide=4.0)) is False
    assert verdict(rows(turn=1.1)) is None
    assert verdict(rows()[:-1]) is None
    assert within(Row("", "", 1.0, None, None, ""), 0.0, 2.0) is None


def test_it_measures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive_filter, "TESTS", 32)
    told: list[str] = []
    study = replace(studies()["adaptive_filter"], steps=1, seeds=2)
    result = measured(study, lambda doing, done: told.append(doing))
    found = {(row["mechanism"], row["what"]): row for row in result["rows"]}
    assert {what for name, what in found if name == PLAIN} == {error(noise) for noise in NOISES}
    assert len(found) == 4 + 2 + 2 + 2
    assert len(told) == 2 * 2 * len(NOISES)
    for noise in NOISES:
        assert 1 <= found[AFA, spread(noise)]["value"] <= LENGTH
        assert found[AFA, floor(noise)]["value"] < found[AFA, error(noise)]["value"]
    assert "## adaptive_filter" in table([result])
