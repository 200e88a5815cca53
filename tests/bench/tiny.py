"""A small causal language model with a real tokenizer, both made here."""

from __future__ import annotations

import functools

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from regard.bench.subject import Subject
from regard.bench.text import Text, read
from regard.hf import Loaded

WORDS = 320


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, with a few merges learnt from the book that ships."""
    found = Tokenizer(models.BPE())
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    found.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=WORDS, initial_alphabet=alphabet, show_progress=False)
    found.train_from_iterator([read().content[:20000]], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=found)


def llama(seed: int = 0) -> LlamaForCausalLM:
    """Two layers, four query heads in two groups, with weights large enough that predictions differ."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=WORDS, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, initializer_range=0.2, architectures=["LlamaForCausalLM"],
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def subject(name: str = "tiny", seed: int = 0) -> Subject:
    """The model and its tokenizer, as a loaded checkpoint."""
    return Subject(Loaded(llama(seed), tokenizer(), name, "0123456789ab", None))


def text(characters: int = 4000, start: int = 0) -> Text:
    """Some of the book, under its own name and digest."""
    whole = read()
    content = whole.content[start : start + characters]
    return Text(f"part of {whole.name}", content, f"{start}-{characters}")
