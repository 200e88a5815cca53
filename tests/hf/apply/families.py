"""Tiny randomly initialised models of many families, and inputs for them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import transformers
from torch import Tensor, nn
from transformers import AutoConfig

VOCABULARY = 97
DECODER = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "n_inner": 48}
MIXTURE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
ROUTED = {
    "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip
LATENT = {
    "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "num_key_value_heads": 4,
    "head_dim": 4,
}  # fmt: skip
ENCODER = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
SEQ2SEQ = {
    "vocab_size": VOCABULARY, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1, "forced_eos_token_id": None,
}  # fmt: skip
T5 = {
    "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_decoder_layers": 2,
    "num_heads": 4, "relative_attention_num_buckets": 8, "pad_token_id": 0, "eos_token_id": 2,
    "decoder_start_token_id": 0,
}  # fmt: skip
VISION = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 16,
    "patch_size": 4,
}  # fmt: skip
AUDIO = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "conv_dim": (16, 16),
    "conv_stride": (4, 2), "conv_kernel": (8, 4), "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8,
    "num_conv_pos_embedding_groups": 4, "vocab_size": 32, "feat_extract_norm": "layer", "do_stable_layer_norm": True,
}  # fmt: skip

_KINDS = {
    "decoder": (DECODER, "AutoModelForCausalLM"),
    "encoder": (ENCODER, "AutoModel"),
    "seq2seq": (SEQ2SEQ, "AutoModelForSeq2SeqLM"),
    "t5": (T5, "AutoModelForSeq2SeqLM"),
    "speech": (SEQ2SEQ, "AutoModelForSpeechSeq2Seq"),
    "vision": (VISION, "AutoModel"),
    "audio": (AUDIO, "AutoModel"),
}

# family -> (kind, settings beside the kind's)
SERVED: dict[str, tuple[str, dict]] = {
    "llama": ("decoder", {}),
    "mistral": ("decoder", {"sliding_window": 5}),
    "mixtral": ("decoder", {"num_local_experts": 4}),
    "qwen2": ("decoder", {}),
    "qwen3": ("decoder", {}),
    "qwen3_moe": ("decoder", MIXTURE),
    "gemma": ("decoder", {}),
    "gemma2": ("decoder", {"sliding_window": 5, "query_pre_attn_scalar": 8, "attn_logit_softcapping": 2.0}),
    "gemma3_text": ("decoder", {"sliding_window": 5, "query_pre_attn_scalar": 8}),
    "phi": ("decoder", {}),
    "phi3": ("decoder", {"sliding_window": 5}),
    "olmo": ("decoder", {}),
    "olmo2": ("decoder", {}),
    "cohere": ("decoder", {}),
    "cohere2": ("decoder", {"sliding_window": 5}),
    "starcoder2": ("decoder", {}),
    "stablelm": ("decoder", {}),
    "gpt_neox": ("decoder", {}),
    "gpt2": ("decoder", GPT),
    "opt": ("decoder", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "granite": ("decoder", {}),
    "helium": ("decoder", {}),
    "glm": ("decoder", {"partial_rotary_factor": 0.5}),
    "nemotron": ("decoder", {}),
    "smollm3": ("decoder", {"no_rope_layers": [1, 0]}),
    "gpt_oss": ("decoder", {"sliding_window": 5, "num_local_experts": 4}),
    "deepseek_v3": ("decoder", {**ROUTED, **LATENT, "q_lora_rank": 16, "n_group": 2}),
    "llama4_text": (
        "decoder",
        {"num_local_experts": 2, "intermediate_size_mlp": 48, "attention_chunk_size": 5, "no_rope_layers": [1, 0]},
    ),
    "exaone4": ("decoder", {"sliding_window": 5, "sliding_window_pattern": 2}),
    "bert": ("encoder", {}),
    "roberta": ("encoder", {}),
    "distilbert": (
        "encoder",
        {"vocab_size": VOCABULARY, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4},
    ),
    "albert": ("encoder", {"embedding_size": 32, "num_hidden_groups": 1}),
    "modernbert": (
        "encoder",
        {"local_attention": 6, "global_attn_every_n_layers": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "clip_text_model": ("encoder", {}),
    "bart": ("seq2seq", {}),
    "marian": ("seq2seq", {}),
    "m2m_100": ("seq2seq", {}),
    "t5": ("t5", {}),
    "whisper": ("speech", {"num_mel_bins": 8, "max_source_positions": 12, "max_target_positions": 64}),
    "vit": ("vision", {}),
    "dinov2": ("vision", {}),
    "clip_vision_model": ("vision", {}),
    "wav2vec2": ("audio", {}),
    "qwen2_moe": ("decoder", {**MIXTURE, "shared_expert_intermediate_size": 16}),
    "phimoe": ("decoder", {"num_local_experts": 4}),
    "olmo3": ("decoder", {"sliding_window": 5}),
    "olmoe": ("decoder", MIXTURE),
    "biogpt": ("decoder", {}),
    "granitemoe": ("decoder", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "glm4": ("decoder", {"partial_rotary_factor": 0.5}),
    "glm4_moe": ("decoder", ROUTED),
    "deepseek_v2": ("decoder", {**ROUTED, **LATENT, "q_lora_rank": None}),
    "persimmon": ("decoder", {}),
    "ernie4_5": ("decoder", {}),
    "ernie4_5_moe": ("decoder", {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 16}),
    "arcee": ("decoder", {}),
    "seed_oss": ("decoder", {}),
    "hunyuan_v1_dense": ("decoder", {}),
    "gpt_bigcode": ("decoder", GPT),
    "bitnet": ("decoder", {}),
    "apertus": ("decoder", {}),
    "jetmoe": ("decoder", {"num_local_experts": 4, "num_experts_per_tok": 2, "kv_channels": 8}),
    "diffllama": ("decoder", {}),
    "doge": ("decoder", {}),
    "ctrl": ("decoder", {**GPT, "dff": 48}),
    "lfm2": ("decoder", {"layer_types": ["conv", "full_attention"]}),
    "jamba": (
        "decoder",
        {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4},
    ),
    "gemma3n_text": (
        "decoder",
        {
            "num_hidden_layers": 4, "num_kv_shared_layers": 2, "sliding_window": 5, "hidden_size_per_layer_input": 8,
            "layer_types": ["sliding_attention", "full_attention"] * 2, "vocab_size_per_layer_input": VOCABULARY,
            "laurel_rank": 4, "altup_num_inputs": 2, "intermediate_size": [48] * 4,
            "activation_sparsity_pattern": [0.0] * 4,
        },
    ),
    "electra": ("encoder", {"embedding_size": 32}),
    "camembert": ("encoder", {}),
    "xlm-roberta": ("encoder", {}),
    "esm": ("encoder", {"position_embedding_type": "rotary", "mask_token_id": 3}),
    "ernie": ("encoder", {}),
    "roberta-prelayernorm": ("encoder", {}),
    "nomic_bert": ("encoder", {}),
    "eurobert": ("encoder", {"hidden_act": "gelu"}),
    "data2vec-text": ("encoder", {}),
    "layoutlm": ("encoder", {}),
    "mbart": ("seq2seq", {}),
    "pegasus": ("seq2seq", {}),
    "blenderbot": ("seq2seq", {}),
    "plbart": ("seq2seq", {}),
    "nllb-moe": ("seq2seq", {}),
    "mt5": ("t5", {}),
    "umt5": ("t5", {}),
    "switch_transformers": ("t5", {}),
    "speech_to_text": (
        "speech",
        {
            "input_feat_per_channel": 8, "max_source_positions": 64, "max_target_positions": 64, "num_conv_layers": 1,
            "conv_kernel_sizes": (3,), "conv_channels": 32,
        },
    ),
    "deit": ("vision", {}),
    "beit": ("vision", {}),
    "siglip_vision_model": ("vision", {}),
    "ijepa": ("vision", {}),
    "vit_mae": ("vision", {}),
    "vit_msn": ("vision", {}),
    "pixtral": ("vision", {}),
    "dinov3_vit": ("vision", {}),
    "videomae": ("vision", {}),
    "aimv2_vision_model": ("vision", {}),
    "hubert": ("audio", {}),
    "unispeech": ("audio", {}),
    "sew": ("audio", {}),
    "data2vec-audio": ("audio", {}),
    "wav2vec2-conformer": ("audio", {}),
}  # fmt: skip

# Families whose attention does not go through the interface.
REFUSED: dict[str, tuple[str, dict]] = {
    "bloom": ("decoder", {"n_layer": 2, "n_head": 4}),
    "falcon": ("decoder", {"head_dim": None, "num_key_value_heads": None}),
    "mpt": ("decoder", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 128}),
    "gpt_neo": (
        "decoder",
        {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 5},
    ),
    "xglm": ("decoder", {"d_model": 32, "attention_heads": 4, "num_layers": 2, "ffn_dim": 48}),
    "deberta": ("encoder", {}),
    "deberta-v2": ("encoder", {}),
    "mpnet": ("encoder", {}),
    "longformer": ("encoder", {}),
    "led": ("seq2seq", {}),
    "wavlm": ("audio", {}),
}  # fmt: skip


@dataclass
class Tiny:
    """A model, inputs for one forward pass, which outputs are real, and inputs for `generate` (None: it can't)."""

    model: nn.Module
    inputs: dict[str, Tensor]
    real: Tensor | None = None
    prompt: dict[str, Tensor] | None = None
    unpadded: dict[str, Tensor] = field(default_factory=dict)


def build(name: str, seed: int = 0, *, attention: str = "eager", **settings: object) -> nn.Module:
    """A tiny model of a family with weights large enough that attention is far from uniform."""
    kind, own = (SERVED | REFUSED)[name]
    common, auto = _KINDS[kind]
    given = {key: value for key, value in {**common, **own, **settings}.items() if value is not None}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(name, **given)
    model = getattr(transformers, auto).from_config(config, attn_implementation=attention).eval().float()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2)
            else:
                parameter.uniform_(0.5, 1.5)
    return model


def tiny(name: str, seed: int = 0) -> Tiny:
    """A model with inputs in which the first row is padded: on the left for decoders, on the right for the others."""
    model = build(name, seed)
    kind = (SERVED | REFUSED)[name][0]
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (2, 12), generator=generator)
    mask = torch.ones_like(ids)
    if kind == "decoder":
        mask[0, :4] = 0
        text = {"input_ids": ids, "attention_mask": mask}
        return Tiny(model, text, mask.bool(), text, {"input_ids": ids})
    mask[0, -4:] = 0
    text = {"input_ids": ids, "attention_mask": mask}
    if kind == "encoder":
        return Tiny(model, text, mask.bool(), None, {"input_ids": ids})
    start = {"decoder_input_ids": torch.randint(3, VOCABULARY, (2, 6), generator=generator)}
    if kind in ("seq2seq", "t5"):
        return Tiny(model, text | start, None, text, {"input_ids": ids} | start)
    if kind == "speech":
        shape = (2, 8, 24) if name == "whisper" else (2, 24, 8)
        sound = {"input_features": torch.randn(shape, generator=generator)}
        return Tiny(model, sound | start, None, sound)
    if kind == "audio":
        return Tiny(model, {"input_values": torch.randn(2, 400, generator=generator)})
    shape = (2, model.config.num_frames, 3, 16, 16) if name == "videomae" else (2, 3, 16, 16)
    image = {"pixel_values": torch.randn(shape, generator=generator)}
    if name == "vit_mae":
        image["noise"] = torch.rand(2, 16, generator=generator)
    return Tiny(model, image)


def result(output: object) -> Tensor:
    """The logits of a model's output, or its last hidden states."""
    return output.logits if "logits" in output else output.last_hidden_state  # type: ignore[attr-defined, operator]
