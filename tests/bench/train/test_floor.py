"""The noise floor, and what it keeps from being ranked."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from regard.bench.train.floor import EXACT, TWIN, Reference, floor, pair, tell
from regard.layers import Attention
from regard.ops.choose import ENGINES
from tests.bench.train.made import TASK, TINY


def test_both_engines_start_from_the_same_model() -> None:
    exact, twin = (entrant.model(TASK, TINY, 3) for entrant in pair(None))
    ids, _ = TASK.batch(torch.Generator().manual_seed(0), 2, 16)
    for (name, one), (other_name, other) in zip(exact.named_parameters(), twin.named_parameters(), strict=True):
        assert name == other_name
        assert torch.equal(one, other)
    torch.testing.assert_close(exact(ids), twin(ids))


def test_the_twin_asks_for_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    run = ENGINES["reference"].run

    def watched(problem: Any) -> Any:
        asked.append(1)
        return run(problem)

    monkeypatch.setattr(ENGINES["reference"], "run", watched)
    ids, _ = TASK.batch(torch.Generator().manual_seed(0), 2, 16)
    exact, twin = (entrant.model(TASK, TINY, 3) for entrant in pair(None))
    exact(ids)
    assert asked == []
    twin(ids)
    assert asked == [1] * TINY.layers


@pytest.mark.parametrize("position", ["none", "rope", "alibi"])
@pytest.mark.parametrize("padded", [False, True])
def test_the_twin_honours_order_padding_and_positions(position: str, padded: bool) -> None:
    torch.manual_seed(0)
    one = Attention(16, 2, position=position).double()
    other = Attention(16, 2, projection=one.projection, position=one.position, mixer=Reference(), merge=one.merge)
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    real = torch.ones(2, 7, dtype=torch.bool)
    real[0, :3] = not padded
    for causal in (True, False):
        ours, theirs = (layer(x, causal=causal, padding=real)[real] for layer in (one, other))
        torch.testing.assert_close(ours, theirs)


def ended(label: str, seed: int, metric: float | None) -> dict[str, Any]:
    return {"mechanism": label, "seed": seed, "metric": metric}


def test_the_floor_is_the_largest_difference_over_seeds_with_both() -> None:
    runs = [
        ended(EXACT, 0, 0.9), ended(TWIN, 0, 0.8), ended(EXACT, 1, 0.5), ended(TWIN, 1, 0.7), ended(EXACT, 2, 0.1),
        ended("other", 0, 0.0), ended(EXACT, 3, None), ended(TWIN, 3, 0.9),
    ]  # fmt: skip
    found = floor(runs)
    assert found["seeds"] == [0, 1]
    assert found["differences"] == pytest.approx([0.1, 0.2])
    assert found["value"] == pytest.approx(0.2)
    assert floor(runs[:1])["value"] is None


def row(metric: float | None, interval: tuple[float, float] | None) -> dict[str, Any]:
    return {"metric": metric, "interval": interval}


@pytest.mark.parametrize(
    ("a", "b", "least", "said"),
    [
        (row(0.9, (0.85, 0.95)), row(0.5, (0.4, 0.6)), 0.1, ""),
        (row(0.5, (0.4, 0.6)), row(0.9, (0.85, 0.95)), 0.1, ""),
        (row(0.9, (0.85, 0.95)), row(0.5, (0.4, 0.6)), 0.4, "they differ by 0.4, no more than the noise floor 0.4"),
        (row(0.9, (0.89, 0.91)), row(0.8, (0.79, 0.81)), 0.2, "they differ by 0.1, no more than the noise floor 0.2"),
        (row(0.9, (0.55, 1.0)), row(0.5, (0.4, 0.6)), 0.1, "their intervals overlap"),
        (row(0.5, (0.4, 0.6)), row(0.9, (0.6, 1.0)), 0.1, "their intervals overlap"),
        (row(0.9, None), row(0.5, None), 0.1, "one seed gives no interval"),
        (row(None, None), row(0.5, (0.4, 0.6)), 0.1, "one of them has no final figure"),
        (row(0.9, (0.85, 0.95)), row(0.5, (0.4, 0.6)), None, "no noise floor was measured"),
        (row(1.0, (1.0, 1.0)), row(1.0, (1.0, 1.0)), 0.0, "they differ by 0, no more than the noise floor 0"),
    ],
)
def test_what_is_ranked(a: dict[str, Any], b: dict[str, Any], least: float | None, said: str) -> None:
    assert tell(a, b, least) == said
