"""One way to open a pretrained model: by a checkpoint's name, a local folder, or a hub id."""

import hashlib
import importlib.util
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from regard.errors import CheckpointError, MissingExtra
from regard.hf.checkpoints import cache, catalog
from regard.hf.checkpoints.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

Task = Literal["auto", "causal-lm", "seq2seq-lm", "speech", "features"]

_CLASSES = {
    "causal-lm": "AutoModelForCausalLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
    "speech": "AutoModelForSpeechSeq2Seq",
    "features": "AutoModel",
}
_PROCESSOR_FILES = ("tokenizer*", "vocab*", "*.model", "preprocessor_config.json", "processor_config.json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?")


@dataclass(frozen=True)
class Loaded:
    """A pretrained model with what feeds it, and what it is.

    `processor` is a tokenizer, an image processor or a `WhisperProcessor`, or None where the model comes without one.
    `revision` is a short id of the weights; `path` the folder they were read from, or None for a hub id.
    """

    model: "PreTrainedModel"
    processor: Any
    name: str
    revision: str | None
    path: Path | None


def load(
    name_or_path_or_hub_id: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device | None = None,
    task: Task = "auto",
) -> Loaded:
    """Open a pulled checkpoint, a local folder or a model of the hub, in eval mode.

    `task="auto"` takes the class that the model's config names; the others take transformers' class for that task.
    Only safetensors are read, and no code that comes with a model is run.

    Raises: CheckpointError if there is no such checkpoint, folder or reachable hub id, or it can't be opened; its text
    says what to type. MissingExtra if the `hf` extra is not installed. ValueError for an unknown task.
    """
    if task not in get_args(Task):
        raise ValueError(f"task must be one of {', '.join(get_args(Task))}; got {task!r}.")
    try:
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingExtra("Opening a pretrained model", "hf") from error
    name = os.fspath(name_or_path_or_hub_id)
    where = _where(name)
    source = name if where is None else str(where)
    config = _config(name, source)
    model = _model(name, source, config, dtype, task)
    if device is not None:
        model = model.to(torch.device(device))  # pyright: ignore[reportArgumentType]
    revision = getattr(config, "_commit_hash", None) if where is None else cache.revision(where) or _digest(where)
    return Loaded(model.eval(), _processor(name, source, where), name, revision and revision[:12], where)


def _where(name: str) -> Path | None:
    """The local folder that is meant, or None for a hub id that can be reached."""
    if name in catalog.names():
        return cache.path(name)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"The folder {name!r} has no config.json, so it is not a model that can be opened.")
        return folder
    if folder.exists():
        raise CheckpointError(f"{name!r} is a file; a model is a folder with config.json and model.safetensors.")
    known = f"{catalog.suggestion(name)} Checkpoints: {', '.join(catalog.names())}. Type: regard models"
    if not _HUB_ID.fullmatch(name):
        raise CheckpointError(f"There is no folder {name!r}, and it is not a checkpoint's name or a hub id.{known}")
    if "/" not in name and catalog.suggestion(name):
        raise CheckpointError(f"{name!r} is not a checkpoint's name or a folder.{known}")
    _reach(name, known)
    return None


def _reach(hub_id: str, known: str) -> None:
    """One short request, because opening an id on a hub that is out of reach retries for half a minute."""
    from huggingface_hub import model_info, try_to_load_from_cache
    from huggingface_hub.errors import RepositoryNotFoundError

    if isinstance(try_to_load_from_cache(hub_id, "config.json"), str):
        return
    try:
        model_info(hub_id, timeout=10)
    except RepositoryNotFoundError as error:
        raise CheckpointError(
            f"{hub_id!r} is not a checkpoint's name or a folder, and the hub has no such model, or does not show it to "
            f"you.{known}"
        ) from error
    # The client's errors share no base with those of the transport under it.
    except Exception as error:
        raise CheckpointError(
            f"{hub_id!r} is not a checkpoint's name or a folder, and the hub is out of reach ({_line(error)}).{known}"
        ) from error


def _config(name: str, source: str) -> "PreTrainedConfig":
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(source, trust_remote_code=False)
    # What transformers raises for a config it can't read is of many kinds.
    except Exception as error:
        raise CheckpointError(f"The config of {name!r} can't be read: {_line(error)}") from error


def _model(name: str, source: str, config: "PreTrainedConfig", dtype: torch.dtype, task: Task) -> "PreTrainedModel":
    import transformers

    named = getattr(transformers, (config.architectures or [""])[0], None) if task == "auto" else None
    is_model = isinstance(named, type) and issubclass(named, transformers.PreTrainedModel)
    chosen: Any = named if is_model else getattr(transformers, _CLASSES.get(task, "AutoModel"))
    try:
        with quiet():
            model, info = chosen.from_pretrained(
                source, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
            )
    except Exception as error:
        mend = f" Type: regard models pull --force {name}" if name in catalog.names() else ""
        raise CheckpointError(f"{name!r} can't be opened as {chosen.__name__}: {_line(error)}{mend}") from error
    # A pooler sits beside the features, not under them.
    if absent := sorted(key for key in info["missing_keys"] if "pooler." not in key):
        raise CheckpointError(
            f"{name!r} lacks {len(absent)} weights of {chosen.__name__} ({', '.join(absent[:3])}), which would be "
            f"random. Take another task than {task!r}: {', '.join(get_args(Task))}."
        )
    return model


def _processor(name: str, source: str, where: Path | None) -> Any:
    from transformers import AutoProcessor

    # transformers makes an empty tokenizer for some models that come without one.
    if where is not None and not any(any(where.glob(pattern)) for pattern in _PROCESSOR_FILES):
        return None
    try:
        with quiet():
            return AutoProcessor.from_pretrained(source, trust_remote_code=False)
    except Exception as error:
        # transformers' way of saying that none of the files of any kind of processor is there.
        if where is None and isinstance(error, ValueError):
            return None
        eyes = "" if importlib.util.find_spec("PIL") else " Pictures need Pillow. Type: pip install pillow"
        raise CheckpointError(f"What feeds {name!r} can't be opened: {_line(error)}{eyes}") from error


def _digest(folder: Path) -> str | None:
    """The SHA-256 of a folder's safetensors, so that a report can say which weights it was made with."""
    digests = []
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as handle:
            digests.append(hashlib.file_digest(handle, "sha256").hexdigest())
    if len(digests) > 1:
        return hashlib.sha256("".join(digests).encode()).hexdigest()
    return digests[0] if digests else None


def _line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__
