"""Keys turned to other positions equal those that the model makes there."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.errors import Unsupported
from regard.hf.applied import apply, can_rotate
from regard.hf.intervention import Intervention
from tests.hf.apply.families import build, tiny
from tests.hf.apply.models import llama, prompt

# half and interleaved pairs, partial rotation in front or behind, scaled by YaRN, two rotary bases, layers without any
TURNED = [
    "llama", "cohere", "glm", "phi", "gpt_neox", "stablelm", "gpt_oss", "deepseek_v3", "gemma3_text", "smollm3",
    "exaone4", "nemotron", "persimmon",
]  # fmt: skip


class Turns(Intervention):
    """At every site: this call's queries and keys, and the same turned."""

    def __init__(self, delta: Tensor) -> None:
        self.delta, self.calls = delta, []

    def inputs(self, site, q, k, v):
        self.calls.append((q, k, site.rotate(q, self.delta), site.rotate(k, self.delta)))


def calls(model, delta: Tensor, place: Tensor) -> list:
    turns = Turns(delta)
    with torch.no_grad(), apply(model, turns):
        model(prompt(2, 8)["input_ids"], position_ids=place, use_cache=False)
    return turns.calls


@pytest.mark.parametrize("family", TURNED)
def test_turned_keys_are_those_of_the_other_position(family: str) -> None:
    model = build(family)
    here, there = torch.tensor([[3, 9, 10, 11, 20, 40, 41, 60]]), torch.tensor([[8, 2, 10, 61, 1, 47, 46, 0]])
    first = calls(model, (there - here)[0], here)
    second = calls(model, torch.zeros(8, dtype=torch.long), there)
    # Only the first layer has the same inputs at both positions: deeper ones have attended from elsewhere.
    (q, k, q_turned, k_turned), (q_there, k_there, q_same, k_same) = first[0], second[0]
    # Angles are float32 products of positions to 60: errors of 60 * 2**-24 radians.
    close = 1e-5 * max(float(q.abs().max()), float(k.abs().max()))
    assert float((k_turned - k_there).abs().max()) <= close
    assert float((q_turned - q_there).abs().max()) <= close
    assert float((q_same - q_there).abs().max()) <= close
    assert float((k_same - k_there).abs().max()) <= close
    assert float((k - k_there).abs().max()) > 100 * close


def test_turns_add_up_and_keep_scores_of_equal_distance() -> None:
    class Adds(Intervention):
        def inputs(self, site, q, k, v):
            steps = [torch.full((8,), n) for n in (5, -12, 7)]
            twice = site.rotate(site.rotate(site.rotate(k, steps[0]), steps[1]), steps[2])
            assert torch.allclose(twice, k, atol=1e-5)
            both = site.rotate(q, steps[2]) @ site.rotate(k, steps[2]).repeat_interleave(2, 1).transpose(-1, -2)
            assert torch.allclose(both, q @ k.repeat_interleave(2, 1).transpose(-1, -2), atol=1e-4)
            rows = torch.stack([steps[0], steps[1]])
            for row in (0, 1):
                assert torch.equal(site.rotate(k, rows)[row], site.rotate(k, steps[row])[row])

    with torch.no_grad(), apply(model := llama(), Adds()):
        model(prompt(2, 8)["input_ids"])


def test_yarns_scale_is_not_applied_twice() -> None:
    scaling = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 32}
    model = llama(rope_parameters=scaling)
    scale = float(model.model.rotary_emb.attention_scaling)
    assert scale > 1.1
    _, k, _, turned = calls(model, torch.full((8,), 5), torch.arange(8)[None])[0]
    assert torch.allclose(turned.norm(dim=-1), k.norm(dim=-1), rtol=1e-5)


def test_layers_that_ignore_positions_turn_by_leaving_alone() -> None:
    model = build("smollm3")
    first, second = calls(model, torch.arange(8) + 1, torch.arange(8)[None])
    assert not torch.allclose(first[1], first[3])
    assert torch.equal(second[1], second[3])
    assert can_rotate(model) == []


def test_half_precision() -> None:
    _, k, _, turned = calls(llama().bfloat16(), torch.full((8,), 3), torch.arange(8)[None])[0]
    assert turned.dtype == torch.bfloat16
    assert torch.allclose(turned.float().norm(dim=-1), k.float().norm(dim=-1), rtol=0.02)


REFUSED = {
    "opt": "is given no rotary embedding: its keys can't be turned to other positions",
    "gpt2": "is given no rotary embedding",
    "llama4_text": "is not a pair (cos, sin)",
    "hunyuan_v1_dense": "is of a kind that regard can't turn",  # it normalises keys after turning them
}


@pytest.mark.parametrize("family", REFUSED)
def test_models_whose_keys_cannot_be_turned_say_so(family: str) -> None:
    model = build(family)
    reasons = can_rotate(model)
    assert len(reasons) == 2
    assert all(REFUSED[family] in reason for reason in reasons)
    with pytest.raises(Unsupported, match=r"its (keys|rotary embedding)"):
        calls(model, torch.zeros(8, dtype=torch.long), None)


def test_rotary_types_that_change_with_length_are_refused() -> None:
    model = llama(rope_parameters={"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0})
    assert "rotary type 'dynamic' changes with the length of the text" in can_rotate(model)[0]


def test_can_rotate_leaves_the_model_alone() -> None:
    model = llama().train()
    assert can_rotate(model) == []
    assert model.training
    assert model.config._attn_implementation == "eager"
    assert can_rotate(tiny("vit").model) == ["vit does not read text, on which rotation is tried"]
    bart = can_rotate(build("bart"))
    assert len(bart) == 4
    assert "is given no rotary embedding" in bart[0]


def test_turning_needs_whole_numbers_and_a_running_model() -> None:
    with pytest.raises(ValueError, match=r"delta must be integers, in tokens; got torch.float32"):
        calls(llama(), torch.zeros(8), None)
    site = apply(llama()).sites[0]
    with pytest.raises(Unsupported, match="keys can only be rotated during a forward pass"):
        site.rotate(torch.zeros(1, 2, 3, 8), torch.zeros(3, dtype=torch.long))
