"""The language model out of GGUF, by what it does: perplexity on a book, an answer, its tokens."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regard
from regard.hf import Loaded, load
from regard.hf.checkpoints import smollm2

pytestmark = pytest.mark.checkpoint
BOOK = Path(regard.__file__).parent / "data" / "alice29.txt"


@pytest.fixture(scope="module")
def loaded(pulled: Callable[[str], Path]) -> Loaded:
    pulled("smollm2-135m")
    return load("smollm2-135m")


def perplexity(loaded: Loaded, tokens: int) -> float:
    """Of the book's first tokens as they are, without a token for the beginning, each but the first predicted."""
    ids = loaded.processor(BOOK.read_text(encoding="utf-8"), return_tensors="pt").input_ids[:, :tokens]
    with torch.no_grad():
        logits = loaded.model(ids).logits[0, :-1].double()
    chosen = logits.gather(-1, ids[0, 1:, None])[:, 0]
    return (logits.logsumexp(-1) - chosen).mean().exp().item()


def test_it_is_the_model_that_is_expected(loaded: Loaded) -> None:
    config = loaded.model.config
    assert type(loaded.model).__name__ == "LlamaForCausalLM"
    assert (config.num_hidden_layers, config.num_attention_heads, config.num_key_value_heads) == (30, 9, 3)
    assert (config.hidden_size, config.head_dim, config.max_position_embeddings) == (576, 64, 8192)
    assert config.rope_parameters["rope_theta"] == 100_000
    assert loaded.model.dtype == torch.float32
    roles = (loaded.processor.bos_token, loaded.processor.eos_token, loaded.processor.pad_token)
    assert roles == ("<|im_start|>", "<|im_end|>", "<|im_end|>")
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (1, 2, 2)


def test_perplexity_on_the_book(loaded: Loaded) -> None:
    # Read on one machine; a wrong permutation, scale or tokenizer moves it by far more than 1%.
    assert perplexity(loaded, 2048) == pytest.approx(19.783, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize(("tokens", "value"), [(4096, 18.12), (8192, 18.79)])
def test_perplexity_at_long_contexts(loaded: Loaded, tokens: int, value: float) -> None:
    assert perplexity(loaded, tokens) == pytest.approx(value, rel=0.01)


def test_it_answers_through_its_chat_template(loaded: Loaded) -> None:
    question = [{"role": "user", "content": "What is the capital of France?"}]
    asked = loaded.processor.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    model: Any = loaded.model
    answer = model.generate(**asked, max_new_tokens=12, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert loaded.processor.decode(answer) == "The capital of France is Paris.<|im_end|>"


def test_digits_stand_alone_and_text_comes_back(loaded: Loaded) -> None:
    tokenizer = loaded.processor
    assert tokenizer("a  12 b345").tokens() == ["a", "ĠĠ", "1", "2", "Ġb", "3", "4", "5"]
    text = BOOK.read_text(encoding="utf-8")[:5000]
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_rows_of_rotated_pairs_become_halves() -> None:
    # GGUF keeps (0, 0'), (1, 1'), ... of each head side by side; transformers wants 0, 1, ..., 0', 1', ...
    pairs = np.arange(12)[:, None] * np.ones(2)
    assert smollm2._halves(pairs, 2)[:, 0].tolist() == [0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11]
