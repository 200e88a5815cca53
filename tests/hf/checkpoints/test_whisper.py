"""The speech recogniser out of CTranslate2, by writing down a spoken sentence."""

import json
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import WhisperProcessor

from regard.hf import Loaded, load

pytestmark = pytest.mark.checkpoint
SPOKEN = Path(__file__).parents[2] / "data" / "spoken.wav"
SENTENCE = "Please write down the answer to my question."


@pytest.fixture(scope="module")
def loaded(pulled: Callable[[str], Path]) -> Loaded:
    pulled("whisper-tiny-en")
    return load("whisper-tiny-en")


@pytest.fixture(scope="module")
def samples() -> np.ndarray:
    with wave.open(str(SPOKEN)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), dtype="<i2").astype(np.float32) / 32768


def test_it_is_the_model_that_is_expected(loaded: Loaded) -> None:
    config = loaded.model.config
    assert type(loaded.model).__name__ == "WhisperForConditionalGeneration"
    assert isinstance(loaded.processor, WhisperProcessor)
    assert (config.encoder_layers, config.decoder_layers, config.d_model) == (4, 4, 384)
    assert (config.encoder_attention_heads, config.decoder_attention_heads) == (6, 6)
    settings = json.loads((loaded.path / "generation_config.json").read_text())  # type: ignore[operator]
    assert settings["alignment_heads"] == [[1, 0], [2, 0], [2, 5], [3, 0], [3, 1], [3, 2], [3, 3], [3, 4]]


def generate(loaded: Loaded, samples: np.ndarray, **settings: Any) -> Any:
    heard = loaded.processor(samples, sampling_rate=16_000, return_tensors="pt", return_attention_mask=True)
    model: Any = loaded.model
    return model.generate(**heard, do_sample=False, **settings)


@pytest.mark.parametrize("beams", [1, 5])
def test_it_writes_down_the_spoken_sentence(beams: int, loaded: Loaded, samples: np.ndarray) -> None:
    written = generate(loaded, samples, num_beams=beams)
    assert loaded.processor.batch_decode(written, skip_special_tokens=True) == [" " + SENTENCE]


def test_noise_of_equal_loudness_is_not_the_sentence(loaded: Loaded, samples: np.ndarray) -> None:
    noise = np.random.default_rng(0).normal(scale=samples.std(), size=samples.shape).astype(np.float32)
    assert "answer" not in loaded.processor.batch_decode(generate(loaded, noise), skip_special_tokens=True)[0]


def test_its_alignment_heads_give_the_words_times(loaded: Loaded, samples: np.ndarray) -> None:
    times = generate(loaded, samples, return_token_timestamps=True)["token_timestamps"][0]
    assert torch.all(times.diff() >= 0)
    # The last word is said in the last second of the speech, which ends with 0.3 s of silence.
    assert len(samples) / 16_000 - 1.3 < times[-1] <= len(samples) / 16_000


def test_its_time_tokens_begin_at_nought(loaded: Loaded) -> None:
    tokenizer = loaded.processor.tokenizer
    first = tokenizer.convert_tokens_to_ids("<|notimestamps|>") + 1
    assert tokenizer.decode([first, first + 50], decode_with_timestamps=True) == "<|0.00|><|1.00|>"
