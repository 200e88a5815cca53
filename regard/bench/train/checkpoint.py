"""A training that can be gone on with: one safetensors file, whole or not there."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from regard.bench.report.files import write_bytes
from regard.errors import CheckpointError, MissingExtra

_MODEL, _OPTIMISER = "model.", "optimiser."


def place(folder: Path, label: str, seed: int) -> Path:
    """Where the checkpoint of one training lies."""
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", label).strip("-.")[:60]
    digest = hashlib.sha256(label.encode()).hexdigest()[:6]  # two labels may look alike once they are plain
    return folder / f"{plain}-{digest}-seed{seed}.safetensors"


def ready() -> None:
    """Find out before anything is trained whether checkpoints can be kept. Raises: MissingExtra where they can't."""
    _safetensors()


def save(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, mark: str, progress: dict[str, Any]) -> None:
    """Write weights, the optimiser's state and how far the training is; `mark` says which training it is.

    Raises: MissingExtra where safetensors is not installed; OSError where the file can't be written.
    """
    tensors = {_MODEL + name: value.contiguous() for name, value in _kept(model).items()}
    for index, kept in optimiser.state_dict()["state"].items():
        tensors |= {f"{_OPTIMISER}{index}.{name}": value.contiguous() for name, value in kept.items()}
    write_bytes(path, _safetensors().save(tensors, {"mark": mark, "progress": json.dumps(progress)}))


def load(path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, mark: str) -> dict[str, Any] | None:
    """Put weights and the optimiser's state back and return how far the training was; None where there is no file, or
    one with another mark, which an earlier run has left.

    Raises: CheckpointError where the file can't be read or does not fit the model; MissingExtra.
    """
    if not path.is_file():
        return None
    library = _safetensors()
    try:
        from safetensors import safe_open

        with safe_open(str(path), framework="pt") as file:
            facts = file.metadata() or {}
        if facts["mark"] != mark:
            return None
        progress = json.loads(facts["progress"])
        tensors = library.load(path.read_bytes())
        with torch.no_grad():
            for name, value in _kept(model).items():
                kept = tensors[_MODEL + name]
                if kept.shape != value.shape:
                    raise ValueError(f"{name} is {list(kept.shape)}, not {list(value.shape)}")
                value.copy_(kept)
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith(_OPTIMISER):
                index, _, name = key.removeprefix(_OPTIMISER).partition(".")
                state.setdefault(int(index), {})[name] = value
        optimiser.load_state_dict({**optimiser.state_dict(), "state": state})
    except (OSError, KeyError, ValueError, _foreign()) as error:
        raise CheckpointError(f"{path} can't be gone on with ({error}). Delete it, or type another --out.") from error
    return progress


def _kept(model: nn.Module) -> dict[str, torch.Tensor]:
    """Parameters and what else belongs to the model's state, each once where two names share it."""
    persistent = model.state_dict().keys()
    own = [*model.named_parameters(), *model.named_buffers()]
    return {name: value.detach() for name, value in own if name in persistent}


def _foreign() -> type[Exception]:
    """What safetensors raises for a file that is not one of its own."""
    from safetensors import SafetensorError

    return SafetensorError


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ModuleNotFoundError as error:
        raise MissingExtra("A checkpoint of a training", "hf") from error
    return safetensors.torch
