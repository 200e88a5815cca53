"""Models that the tests of methods run on, and prompts for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.hf import Intervention
from regard.hf.applied import apply, check
from regard.methods.registry import create
from tests.hf.apply.families import build
from tests.hf.apply.models import prompt

# Grouped heads; soft-cap and sliding layers; sink logits, YaRN and sliding layers; part of each head turned (twice, in
# different layouts); no rotation; sliding in every layer.
FAMILIES = ("llama", "gemma2", "gpt_oss", "gpt_neox", "phi", "opt", "mistral")
UNROTATED = ("opt",)


def model_of(family: str, dtype: torch.dtype = torch.float32, **settings: object) -> nn.Module:
    """A tiny model of a family that reads up to 512 tokens; some of its layers slide by 60 where the family does so."""
    sliding = {"sliding_window": 60} if family in ("gemma2", "gpt_oss", "mistral") else {}
    model = build(family, max_position_embeddings=512, **sliding, **settings).to(dtype)
    if family == "gpt_oss":
        model.set_experts_implementation("eager")  # the fast one knows no float64
    return model


def usable(method: str, family: str, **settings: object) -> Intervention:
    """The method, without positions inside the cache where a family has no rotation."""
    if method == "streaming_llm" and family in UNROTATED:
        settings["in_cache_positions"] = False
    return create(method, **settings)


def logits(model: nn.Module, inputs: dict[str, Tensor], *interventions: Intervention) -> Tensor:
    """Logits of one forward pass under interventions."""
    place = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad(), apply(model, *interventions):
        return model(**inputs, position_ids=place).logits


def stepped(model: nn.Module, inputs: dict[str, Tensor], chunks: list[int], *interventions: Intervention) -> Tensor:
    """The same logits with the text given in chunks through a cache."""
    mask = inputs["attention_mask"]
    place = (mask.cumsum(-1) - 1).clamp(min=0)
    outs, start = [], 0
    with torch.no_grad(), apply(model, *interventions) as run:
        cache = run.cache()
        for n in chunks:
            known = {"attention_mask": mask[:, : start + n], "position_ids": place[:, start : start + n]}
            ids = inputs["input_ids"][:, start : start + n]
            outs.append(model(ids, **known, **{run.cache_name: cache}).logits)
            start += n
    return torch.cat(outs, 1)


def gap(found: Tensor, expected: Tensor, inputs: dict[str, Tensor]) -> float:
    """The largest difference at real tokens, relative to the largest logit."""
    real = inputs["attention_mask"].bool()
    return float((found - expected)[real].abs().max() / expected[real].abs().max())


__all__ = ["FAMILIES", "UNROTATED", "check", "gap", "logits", "model_of", "prompt", "stepped", "usable"]
