"""Models that read text and images in one go."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlavaConfig,
    LlavaForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from regard.hf.applied import apply
from regard.hf.intervention import Intervention
from regard.hf.select import Sites
from tests.hf.apply.families import DECODER, VISION, VOCABULARY

IMAGE = VOCABULARY - 1
EYES = {**VISION, "patch_size": 8}


def llava() -> tuple[nn.Module, dict[str, Tensor]]:
    config = LlavaConfig(
        text_config={**DECODER, "model_type": "llama"},
        vision_config={**EYES, "model_type": "clip_vision_model", "projection_dim": 32},
        image_token_index=IMAGE,
        image_seq_length=4,
    )
    model = LlavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    return model, {"pixel_values": torch.randn(1, 3, 16, 16)}


def gemma3() -> tuple[nn.Module, dict[str, Tensor]]:
    """Image tokens look at each other in both directions."""
    text = {**DECODER, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
    config = Gemma3Config(
        text_config=text,
        vision_config={**EYES, "model_type": "siglip_vision_model"},
        mm_tokens_per_image=4,
        image_token_index=IMAGE,
        boi_token_index=94,
        eoi_token_index=95,
    )
    model = Gemma3ForConditionalGeneration._from_config(config, attn_implementation="eager")
    kinds = torch.zeros(1, 12, dtype=torch.long)
    kinds[0, 2:6] = 1
    return model, {"pixel_values": torch.randn(1, 3, 16, 16), "token_type_ids": kinds}


def qwen2_5_vl() -> tuple[nn.Module, dict[str, Tensor]]:
    """Image patches are attended in windows; text positions have three axes."""
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
    eyes = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4, "out_hidden_size": 32, "patch_size": 4,
        "spatial_merge_size": 2, "window_size": 16, "fullatt_block_indexes": [1], "in_channels": 3,
        "temporal_patch_size": 2,
    }  # fmt: skip
    config = Qwen2_5_VLConfig(
        text_config={**DECODER, "rope_parameters": rope},
        vision_config=eyes,
        image_token_id=IMAGE,
        vision_start_token_id=94,
        vision_end_token_id=95,
        video_token_id=93,
    )
    model = Qwen2_5_VLForConditionalGeneration._from_config(config, attn_implementation="eager")
    kinds = torch.zeros(1, 12, dtype=torch.int)
    kinds[0, 2:6] = 1
    image = {"pixel_values": torch.randn(16, 3 * 2 * 16), "image_grid_thw": torch.tensor([[1, 4, 4]])}
    return model, image | {"mm_token_type_ids": kinds}


class Reads(Intervention):
    sites = Sites(within="language_model")

    def __init__(self) -> None:
        self.names: set[str] = set()

    def weights(self, site, rows):
        self.names.add(site.name)


@pytest.mark.parametrize("make", [llava, gemma3, qwen2_5_vl])
@torch.no_grad()
def test_text_and_image(make) -> None:
    torch.manual_seed(0)
    model, image = make()
    model.eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.2)
    ids = torch.randint(3, 90, (1, 12))
    ids[0, 2:6] = IMAGE
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), **image}
    expected = model(**inputs).logits
    reads = Reads()
    for interventions in ((), (reads,)):
        with apply(model, *interventions) as run:
            found = model(**inputs).logits
        assert float((found - expected).abs().max()) <= 1e-5 * max(1.0, float(expected.abs().max()))
        assert len(run.sites) == 4
    assert len(reads.names) == 2
    assert all("language_model" in name for name in reads.names)
    assert set(run.meter.engines()) == {"sdpa", "rows"}
