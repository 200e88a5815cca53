"""One training: what it depends on, and that an interruption leaves no trace."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from regard.bench.tasks import SILENT, task
from regard.bench.train import checkpoint
from regard.bench.train.entrant import Entrant, entrants
from regard.bench.train.evaluate import evaluate
from regard.bench.train.run import run
from regard.bench.train.settings import HELD_OUT, Settings, data_seed
from regard.errors import CheckpointError
from tests.bench.train.made import TASK, TINY

CPU = torch.device("cpu")
TIMES = ("seconds_to_target", "seconds", "step_ms", "peak_bytes")


class Stop(Exception):
    """An interruption."""


def entrant(name: str = "softmax") -> Entrant:
    return entrants([name])[0]


def figures(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what a clock or the system says."""
    return {key: value for key, value in row.items() if key not in TIMES}


def weights(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(path)


@pytest.mark.parametrize("after", [1, 3, 5])
def test_going_on_ends_where_the_uninterrupted_training_does(after: int, tmp_path: Path) -> None:
    whole = run(entrant(), TASK, TINY, 1, device=CPU, path=tmp_path / "whole.safetensors")

    def stop(done: float) -> None:
        if done >= after / TINY.steps:
            raise Stop

    part = tmp_path / "part.safetensors"
    with pytest.raises(Stop):
        run(entrant(), TASK, TINY, 1, device=CPU, path=part, progress=stop)
    again = run(entrant(), TASK, TINY, 1, device=CPU, path=part, resume=True)
    assert figures(again) == figures(whole)
    kept, other = weights(tmp_path / "whole.safetensors"), weights(part)
    assert kept.keys() == other.keys()
    assert all(torch.equal(kept[name], other[name]) for name in kept)


def test_what_is_done_is_not_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    run(entrant(), TASK, TINY, 0, device=CPU, path=path)
    seen: list[float] = []
    run(entrant(), TASK, TINY, 0, device=CPU, path=path, resume=True, progress=seen.append)
    assert seen == []


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"task": task("mqar:pairs=3")},
        {"settings": dataclasses.replace(TINY, rate=1e-3)},
        {"position": "none"},
    ],
    ids=["seed", "task", "settings", "position"],
)
def test_a_checkpoint_of_another_training_is_not_gone_on_with(other: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    run(entrant(), TASK, TINY, 0, device=CPU, path=path)
    given = {"task": TASK, "settings": TINY, "seed": 0, **other}
    seen: list[float] = []
    run(entrant(), **given, device=CPU, path=path, resume=True, progress=seen.append)
    assert len(seen) == TINY.steps


def test_a_broken_checkpoint_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"not a checkpoint at all")
    with pytest.raises(CheckpointError, match=r"can't be gone on with .* Delete it, or type another --out\."):
        run(entrant(), TASK, TINY, 0, device=CPU, path=path, resume=True)


def test_more_seeds_do_not_change_a_training(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    run(entrant(), TASK, TINY, 0, device=CPU, path=path)
    seen: list[float] = []
    more = dataclasses.replace(TINY, seeds=9)
    run(entrant(), TASK, more, 0, device=CPU, path=path, resume=True, progress=seen.append)
    assert seen == []


def test_places_of_checkpoints_are_plain_and_apart(tmp_path: Path) -> None:
    names = {checkpoint.place(tmp_path, label, 0).name for label in ("a:b=1", "a-b-1", "a/b=1", "../../a")}
    assert len(names) == 4
    assert all((tmp_path / name).resolve().parent == tmp_path.resolve() for name in names)
    assert not any(set(name) & set("/:=") for name in names)


def test_every_mechanism_reads_the_same_sequences_in_the_same_order(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[list[list[int]]] = []
    draw = type(TASK).draw

    def watched(self: Any, generator: torch.Generator, size: int, length: int, held_out: bool) -> Any:
        ids, targets = draw(self, generator, size, length, held_out)
        read.append(ids.tolist())
        return ids, targets

    monkeypatch.setattr(type(TASK), "draw", watched)
    run(entrant(), TASK, TINY, 0, device=CPU)
    first, read = read, []
    run(entrant("sliding_window:window=2"), TASK, TINY, 0, device=CPU)
    assert read == first
    batches = [tuple(map(tuple, ids)) for ids in first if len(ids) == TINY.batch]
    assert len(set(batches)) >= TINY.steps  # and no step's are another's


def test_test_data_is_never_training_data() -> None:
    assert data_seed(2**31, 2**20 - 1) < HELD_OUT
    assert len({data_seed(seed, step) for seed in range(3) for step in (0, 1, 2**20 - 1)}) == 9


def test_the_final_figure_is_the_share_of_right_answers() -> None:
    model = entrant().model(TASK, TINY, 0)
    told = evaluate(model, TASK, 16, 8)
    ids, targets = TASK.batch(torch.Generator().manual_seed(HELD_OUT + 16), 8, 16, held_out=True)
    logits = model(ids).detach()
    right, loss, asked = 0, 0.0, 0
    for b in range(8):
        for n in range(16):
            answer = int(targets[b, n])
            if answer != SILENT:
                asked += 1
                right += int(logits[b, n].argmax()) == answer
                loss -= float(logits[b, n].log_softmax(-1)[answer])
    assert told["accuracy"] == right / asked
    assert told["loss"] == pytest.approx(loss / asked, rel=1e-5)


def test_the_schedule_warms_up_and_falls_to_a_tenth() -> None:
    settings = Settings(steps=100, rate=1.0, warm=0.1)
    rates = [settings.rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == rates[9] == rates[10] == 1.0
    assert all(a > b for a, b in itertools.pairwise(rates[10:]))
    assert rates[-1] == pytest.approx(0.1, abs=0.01)
    assert rates[55] == pytest.approx(0.1 + 0.45, abs=1e-9)


def test_the_loss_falls() -> None:
    settings = dataclasses.replace(TINY, steps=60, every=60, batch=16, rate=1e-2)
    before = evaluate(entrant().model(TASK, settings, 0), TASK, 16, 16)["loss"]
    after = run(entrant(), TASK, settings, 0, device=CPU)
    assert after["loss"] < before - 0.5
    assert after["steps_to_target"] is None
    assert after["seconds_to_target"] is None


def test_the_first_test_past_the_target_is_told() -> None:
    easy = task("mqar:pairs=1,tokens=4")  # one key and two values: half right by guessing
    object.__setattr__(easy, "target", 0.4)
    row = run(entrant(), easy, dataclasses.replace(TINY, steps=40, every=5, rate=1e-2, tests=200), 0, device=CPU)
    first = next(step for step, _, value in row["curve"] if value >= 0.4)
    assert row["steps_to_target"] == first
    assert 0 < row["seconds_to_target"] <= row["seconds"]


def test_a_training_that_breaks_is_told_and_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = dataclasses.replace(TINY, rate=1e30, clip=math.inf)
    row = run(entrant(), TASK, settings, 0, device=CPU)
    assert row["broke"] is not None
    assert row["broke"] < TINY.steps
    assert row["metric"] is None
    assert json.loads(json.dumps(row["lengths"])) == {}


def test_a_step_is_adamw_on_clipped_gradients(tmp_path: Path) -> None:
    """Three steps against the update rule written out."""
    settings = dataclasses.replace(TINY, steps=3, every=3, clip=0.1, decay=0.5, rate=1e-2, warm=0.5)
    path = tmp_path / "a.safetensors"
    run(entrant(), TASK, settings, 0, device=CPU, path=path)
    model = entrant().model(TASK, settings, 0)
    parameters = dict(model.named_parameters())
    first = {name: torch.zeros_like(p) for name, p in parameters.items()}
    second = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for step in range(3):
        ids, targets = TASK.batch(torch.Generator().manual_seed(data_seed(0, step)), settings.batch, settings.length)
        asked = targets != SILENT
        loss = -model(ids)[asked].log_softmax(-1).gather(1, targets[asked][:, None]).mean()
        slopes = torch.autograd.grad(loss, list(parameters.values()))
        norm = math.sqrt(sum(float(slope.pow(2).sum()) for slope in slopes))
        assert norm > settings.clip
        rate = settings.rate_at(step)
        with torch.no_grad():
            for (name, p), slope in zip(parameters.items(), slopes, strict=True):
                g = slope * settings.clip / norm
                first[name] = 0.9 * first[name] + 0.1 * g
                second[name] = 0.95 * second[name] + 0.05 * g * g
                mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.95 ** (step + 1))
                p.sub_(rate * (mean / (square.sqrt() + 1e-8) + settings.decay * p))
    kept = weights(path)
    for name, p in parameters.items():
        torch.testing.assert_close(kept[f"model.{name}"], p.detach(), atol=2e-5, rtol=1e-4)
