"""Opening a model by name, folder or hub id; what can't be opened says what to type."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from regard.errors import CheckpointError
from regard.hf import load


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub that is out of reach, whatever the machine can reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def saved(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def bert(folder: Path) -> Path:
    sizes: Any = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return saved(BertForMaskedLM(BertConfig(vocab_size=11, max_position_embeddings=4, **sizes)), folder)


def gpt2(folder: Path) -> Path:
    return saved(GPT2LMHeadModel(GPT2Config(vocab_size=11, n_positions=4, n_embd=8, n_layer=1, n_head=2)), folder)


def test_a_folder_opens_as_the_class_its_config_names(tmp_path: Path) -> None:
    causal = load(gpt2(tmp_path / "gpt2"))
    masked = load(str(bert(tmp_path / "bert")), dtype=torch.bfloat16)
    assert type(causal.model).__name__ == "GPT2LMHeadModel"
    assert type(masked.model).__name__ == "BertForMaskedLM"
    assert (causal.model.dtype, masked.model.dtype) == (torch.float32, torch.bfloat16)
    assert not causal.model.training
    assert causal.path == tmp_path / "gpt2"
    assert causal.processor is None


def test_the_task_chooses_the_class(tmp_path: Path) -> None:
    assert type(load(bert(tmp_path / "bert"), task="features").model).__name__ == "BertModel"
    assert type(load(gpt2(tmp_path / "gpt2"), task="features").model).__name__ == "GPT2Model"


def test_the_revision_follows_the_weights(tmp_path: Path) -> None:
    first, second = gpt2(tmp_path / "a"), gpt2(tmp_path / "b")
    assert load(first).revision == load(first).revision
    assert load(first).revision != load(second).revision


def test_weights_that_would_be_random_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="can't be opened as AutoModelForSeq2SeqLM"):
        load(bert(tmp_path), task="seq2seq-lm")
    encoder = load(bert(tmp_path), task="features").model
    encoder.save_pretrained(tmp_path / "encoder")
    with pytest.raises(
        CheckpointError, match=r"lacks \d+ weights of AutoModelForCausalLM \(cls\..*which would be random"
    ):
        load(tmp_path / "encoder", task="causal-lm")


def test_an_unknown_task_is_told() -> None:
    with pytest.raises(ValueError, match=r"task must be one of auto, causal-lm, .*; got 'summary'"):
        load("smollm2-135m", task="summary")  # type: ignore[arg-type]


def test_a_checkpoint_not_pulled_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGARD_CACHE", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"^minilm-l6 is not pulled\. Type: regard models pull minilm-l6$"):
        load("minilm-l6")


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("smollm2-130m", r"'smollm2-130m' is not a checkpoint's name or a folder\. Did you mean 'smollm2-135m'\?"),
        ("someone/something", r"'someone/something' is not .* and the hub is out of reach .*Type: regard models"),
        ("./no/such/folder", r"There is no folder '\./no/such/folder', and it is not a checkpoint's name or a hub id"),
    ],
)
def test_what_is_neither_name_folder_nor_hub_id_is_told(name: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(name)


def test_a_hub_without_the_model_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub.errors import RepositoryNotFoundError

    def absent(hub_id: str, *, timeout: float) -> None:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr("huggingface_hub.model_info", absent)
    with pytest.raises(CheckpointError, match="the hub has no such model, or does not show it to you"):
        load("someone/something")


def test_a_folder_that_is_no_model_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no config\.json, so it is not a model that can be opened"):
        load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"The config of .* can't be read"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match="is a file; a model is a folder with config"):
        load(tmp_path / "config.json")


def test_damaged_weights_are_told(tmp_path: Path) -> None:
    weights = gpt2(tmp_path) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="can't be opened as GPT2LMHeadModel"):
        load(tmp_path)


def test_pickled_weights_and_foreign_code_are_not_opened(tmp_path: Path) -> None:
    folder = gpt2(tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="can't be opened as GPT2LMHeadModel"):
        load(folder)
    foreign = {"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig"}}
    (folder / "config.json").write_text(json.dumps(foreign))
    (folder / "odd.py").write_text("raise SystemExit('foreign code was run')")
    with pytest.raises(CheckpointError, match=r"The config of .* can't be read"):
        load(folder)


def test_a_processor_that_cannot_be_opened_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = gpt2(tmp_path)
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"What feeds .* can't be opened: "):
        load(folder)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"Pictures need Pillow\. Type: pip install pillow$"):
        load(folder)
