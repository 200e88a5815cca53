"""The training benchmark: mechanisms trained on the same data in the same order, and what that tells."""

from __future__ import annotations

import datetime
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from regard.bench import machine, store
from regard.bench.tasks import Task
from regard.bench.train import checkpoint
from regard.bench.train.entrant import Entrant, rehearse, usual
from regard.bench.train.floor import EXACT, TWIN, floor, pair
from regard.bench.train.run import run
from regard.bench.train.settings import Settings
from regard.bench.train.spread import rows
from regard.errors import RegardError


class Progress(Protocol):
    """What is told of a long run: what is being done, and how much of the whole is done (0 to 1)."""

    def __call__(self, doing: str, done: float) -> None: ...


def train(
    task: Task,
    entrants: Sequence[Entrant],
    settings: Settings,
    *,
    position: str | None = None,
    measure_floor: bool = True,
    device: str | torch.device = "cpu",
    folder: Path | None = None,
    resume: bool = False,
    command: Sequence[str] = (),
    progress: Progress = lambda doing, done: None,
) -> dict[str, Any]:
    """Train every mechanism from every seed, and softmax by two engines for the noise floor.

    With `folder` its `train.json` is saved after every training, and its `checkpoints` hold the trainings themselves;
    `resume` goes on from both.

    Raises: RegardError where a mechanism can't be trained, before anything is, or what is resumed was another run.
    """
    task.fit(settings.length)
    if folder is not None:
        checkpoint.ready()
    device, position = torch.device(device), position or usual()
    twins = pair(position) if measure_floor else []
    everyone = list({entrant.label: entrant for entrant in (*entrants, *twins)}.values())
    parameters = {entrant.label: rehearse(entrant, task, settings) for entrant in everyone}
    result = _head(task, entrants, settings, position, parameters, device, command)
    path = None if folder is None else folder / "train.json"
    if resume and path is not None:
        result["runs"] = _resumed(read(path), result, path)
    done = {(entry["mechanism"], entry["seed"]) for entry in result["runs"]}
    # Seed by seed, so that what an interrupted run has finished can be compared.
    todo = [(entrant, seed) for seed in range(settings.seeds) for entrant in everyone]
    todo = [(entrant, seed) for entrant, seed in todo if (entrant.label, seed) not in done]
    _gather(result, entrants, task)
    if path is not None:
        store.write(result, path)  # from here on there is something to resume
    for number, (entrant, seed) in enumerate(todo):
        name = f"{entrant.label}, seed {seed}"
        entry = run(
            entrant, task, settings, seed, device=device, position=position, resume=resume,
            path=None if folder is None else checkpoint.place(folder / "checkpoints", entrant.label, seed),
            progress=lambda part, number=number, name=name: progress(name, (number + part) / len(todo)),
        )  # fmt: skip
        result["runs"].append(entry)
        _gather(result, entrants, task)
        if path is not None:
            store.write(result, path)
    progress("done", 1.0)
    return result


def read(path: Path) -> dict[str, Any]:
    """Read a result back.

    Raises: RegardError where there is none, or it is not one of regard train.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RegardError(f"There is nothing to resume: no {path}. Type the command without --resume.") from None
    except (OSError, ValueError) as error:
        raise RegardError(f"{path} can't be read ({error}). Type the command without --resume.") from error
    parts = {"task": dict, "settings": dict, "runs": list}
    if not (
        isinstance(found, dict)
        and (found.get("schema"), found.get("kind")) == (1, "train")
        and all(isinstance(found.get(name), kind) for name, kind in parts.items())
        and all(isinstance(run, dict) and {"mechanism", "seed"} <= run.keys() for run in found["runs"])
    ):
        raise RegardError(f"{path} is not a result of regard train. Type the command without --resume.")
    return found


def _gather(result: dict[str, Any], entrants: Sequence[Entrant], task: Task) -> None:
    """Put what the trainings so far say together into the result."""
    labels = [entrant.label for entrant in entrants]
    result["rows"] = rows(result["runs"], labels, task.metric)
    for row in result["rows"]:
        row["parameters"] = result["parameters"][row["mechanism"]]
    result["floor"] = floor(result["runs"])


def _head(
    task: Task, entrants: Sequence[Entrant], settings: Settings, position: str, parameters: dict[str, int],
    device: torch.device, command: Sequence[str],
) -> dict[str, Any]:  # fmt: skip
    return {
        "schema": 1,
        "kind": "train",
        "command": shlex.join(command),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "task": {
            "name": task.name,
            "label": task.label,
            "what": task.what,
            "source": str(task.source),
            "settings": task.settings,
            "metric": task.metric,
            "target": task.target,
            "vocabulary": task.vocabulary,
        },
        "settings": settings.plain,
        "position": position,
        "mechanisms": [entrant.label for entrant in entrants],
        "parameters": parameters,
        "machine": machine.machine(device),
        "versions": machine.versions(),
        "runs": [],
    }


def _resumed(before: dict[str, Any], now: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    """The finished trainings of a run that is gone on with; more seeds and other mechanisms may be asked of it."""
    for part, names in (
        ("task", ("label",)),
        ("settings", tuple(name for name in now["settings"] if name != "seeds")),
    ):
        for name in names:
            old, new = before.get(part, {}).get(name), now[part][name]
            if old != new:
                raise RegardError(
                    f"{path} was trained with another {part} ({name}: {old}, now {new}); type the same command as "
                    "then, or leave --resume out to start afresh."
                )
    if before.get("position") != now["position"]:
        raise RegardError(
            f"{path} was trained with position {before.get('position')}, now {now['position']}; type --position "
            f"{before.get('position')}, or leave --resume out to start afresh."
        )
    wanted = {*now["mechanisms"], EXACT, TWIN}
    seeds = now["settings"]["seeds"]
    return [entry for entry in before["runs"] if entry["mechanism"] in wanted and entry["seed"] < seeds]
