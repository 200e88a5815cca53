"""A model that learnt each position reads no more tokens than it has positions, and that is told before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import GPT2Config, GPT2LMHeadModel, OPTConfig, OPTForCausalLM, PreTrainedModel

from regard.bench.compare import compare
from regard.bench.settings import Settings, chosen
from regard.bench.subject import Subject
from regard.errors import RegardError
from regard.hf import Loaded
from tests.bench.tiny import WORDS, llama, text, tokenizer


def gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=WORDS, n_embd=32, n_layer=1, n_head=2, n_positions=256))


def opt() -> PreTrainedModel:
    sizes = {"hidden_size": 32, "ffn_dim": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    return OPTForCausalLM(OPTConfig(vocab_size=WORDS, max_position_embeddings=256, word_embed_proj_dim=32, **sizes))


@pytest.mark.parametrize("made", [gpt2, opt])
def test_no_more_tokens_than_positions(made, tmp_path: Path) -> None:
    one = Subject(Loaded(made().eval(), tokenizer(), "tiny", None, None))
    assert one.longest == 256
    path = tmp_path / "compare.json"
    for settings, said in (
        (Settings(context=512, decode=4), r"^tiny has learned positions for 256 tokens; --context 512 with --decode 4 needs "
                                          r"\d+. Type --context 192.$"),
        (Settings(context=64, decode=300), "^tiny has learned positions for 256 tokens; --context 64 with --decode 300 needs"),
        (Settings(context=128, decode=4, stream=512), "^tiny has learned positions for 256 tokens; --stream 512 needs 512. "
                                                      "Leave --stream out.$"),
    ):  # fmt: skip
        with pytest.raises(RegardError, match=said):
            compare(one, text(), chosen(["sliding_window:window=32"]), settings, path=path)
    assert not path.exists()
    for context, stream in ((192, 0), (64, 256)):  # the advice works
        settings = Settings(context=context, decode=4, needles=2, stream=stream)
        assert len(compare(one, text(), chosen(["sliding_window:window=32"]), settings)["rows"]) == 2


def test_rotation_has_no_end() -> None:
    assert Subject(Loaded(llama(), tokenizer(), "tiny", None, None)).longest is None
