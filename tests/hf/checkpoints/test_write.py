"""Writing a model folder: what does not fit is told by name, not filled with random numbers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel

from regard.errors import CheckpointError
from regard.hf.checkpoints.write import write_model


def tiny() -> tuple[BertConfig, dict[str, Tensor]]:
    config = BertConfig(
        vocab_size=11, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=4,
    )  # fmt: skip
    torch.manual_seed(0)
    return config, BertModel(config).state_dict()


def test_what_fits_opens_again_with_the_same_numbers(tmp_path: Path) -> None:
    config, tensors = tiny()
    write_model(tmp_path, BertModel, config, tensors)
    opened = BertModel.from_pretrained(tmp_path).state_dict()
    assert opened.keys() == tensors.keys()
    assert all(torch.equal(opened[name], value) for name, value in tensors.items())
    assert (tmp_path / "model.safetensors").stat().st_mode & 0o777 == tmp_path.stat().st_mode & 0o666


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pooler.dense.bias": None}, r"missing: pooler\.dense\.bias"),
        ({"pooler.dense.extra": torch.zeros(2)}, r"unexpected: pooler\.dense\.extra"),
        ({"pooler.dense.bias": torch.zeros(9)}, r"mismatched: .*pooler\.dense\.bias"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Tensor | None], message: str, tmp_path: Path) -> None:
    config, tensors = tiny()
    altered = {name: value for name, value in {**tensors, **change}.items() if value is not None}
    with pytest.raises(CheckpointError, match=rf"don't fit BertModel of this transformers \({message}"):
        write_model(tmp_path, BertModel, config, altered)
