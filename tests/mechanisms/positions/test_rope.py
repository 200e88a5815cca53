"""RoPE: what its scores know, and its scalings against those that pretrained models were made with."""

from __future__ import annotations

import math

import pytest
import torch

from regard.errors import ShapeError
from regard.mechanisms.positions import RoPE

D, BASE = 16, 10000.0


def steps(rope: RoPE, width: int = D) -> torch.Tensor:
    return rope.steps(width, torch.zeros(1, dtype=torch.float64))


def scores(rope: RoPE, i: int, j: int) -> torch.Tensor:
    q, k = torch.randn(2, 1, 2, 1, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (rope.turn(q, torch.tensor([[i]])) * rope.turn(k, torch.tensor([[j]]))).sum(-1)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("scaling", ["none", "linear", "ntk", "yarn", "llama3"])
def test_scores_know_the_distance_alone(scaling, interleaved):
    factor = 1.0 if scaling == "none" else 4.0
    rope = RoPE(scaling=scaling, factor=factor, original_length=64, interleaved=interleaved)
    assert torch.allclose(scores(rope, 9, 4), scores(rope, 1009, 1004), rtol=1e-10)
    assert not torch.allclose(scores(rope, 9, 4), scores(rope, 9, 3), rtol=1e-3)


def test_lengths_stay_and_yarn_stretches_them():
    x, at = torch.randn(2, 3, 5, D, dtype=torch.float64), torch.arange(5)[None]
    assert torch.allclose(RoPE().turn(x, at).norm(dim=-1), x.norm(dim=-1))
    longer = RoPE(scaling="yarn", factor=8.0, original_length=64).turn(x, at).norm(dim=-1) / x.norm(dim=-1)
    assert torch.allclose(longer, torch.full_like(longer, 0.1 * math.log(8) + 1))


def test_linear_scaling_divides_positions():
    x, at = torch.randn(1, 1, 3, D, dtype=torch.float64), torch.tensor([[0, 8, 20]])
    assert torch.allclose(RoPE(scaling="linear", factor=4.0).turn(x, at), RoPE().turn(x, at // 4))


def test_ntk_slows_the_slowest_pair_by_the_factor_and_leaves_the_fastest():
    plain, stretched = steps(RoPE()), steps(RoPE(scaling="ntk", factor=4.0))
    assert torch.allclose(plain[[0, -1]] / stretched[[0, -1]], torch.tensor([1.0, 4.0], dtype=torch.float64))
    assert torch.equal(steps(RoPE(scaling="ntk", factor=4.0), 2), torch.ones(1, dtype=torch.float64))


@pytest.mark.parametrize("scaling", ["yarn", "llama3"])
def test_fast_pairs_keep_their_step_and_slow_ones_are_divided(scaling):
    ratio = steps(RoPE()) / steps(RoPE(scaling=scaling, factor=4.0, original_length=256))
    assert ratio[0] == 1
    assert math.isclose(float(ratio[-1]), 4.0)
    assert (ratio.diff() >= -1e-12).all()
    assert ((ratio > 1.001) & (ratio < 3.999)).any()


def test_a_step_in_float32_and_half_precision_stays_near_float64():
    x = torch.randn(1, 2, 6, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    at = torch.arange(30000, 30006)[None]
    want = RoPE().turn(x, at)
    assert (RoPE().turn(x.float(), at) - want).abs().max() < 0.02
    low = RoPE().turn(x.bfloat16(), at)
    assert low.dtype == torch.bfloat16
    assert (low - want).abs().max() < 0.05


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"scaling": "dynamic"}, "must be one of 'none', 'linear'"),
        ({"factor": 2.0}, "needs a scaling"),
        ({"scaling": "linear", "factor": 0.5}, "factor must be at least 1"),
        ({"scaling": "yarn", "factor": 2.0}, "original_length=8192"),
        ({"scaling": "linear", "factor": 2.0, "attention_factor": 1.2}, "goes with scaling='yarn'"),
        ({"low_freq_factor": 5.0}, "below high_freq_factor"),
        ({"beta_slow": 40.0}, "below beta_fast"),
        ({"base": 1.0}, "greater than 1"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        RoPE(**settings)


def test_odd_heads_are_refused_with_a_width_that_fits():
    with pytest.raises(ShapeError, match="even width; got 7.*is 8"):
        RoPE().width(7)


@pytest.mark.slow
@pytest.mark.parametrize("width", [16, 64, 128])
@pytest.mark.parametrize(
    ("kind", "factor", "length"), [("linear", 4.0, 512), ("yarn", 8.0, 4096), ("llama3", 8.0, 8192)]
)
def test_scalings_are_those_of_transformers(kind, factor, length, width):
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {"rope_type": kind, "rope_theta": 500000.0, "factor": factor}
    parameters |= {"original_max_position_embeddings": length, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config = LlamaConfig(
        hidden_size=4 * width,
        num_attention_heads=4,
        head_dim=width,
        max_position_embeddings=int(length * factor),
        rope_parameters=parameters,
    )
    theirs, stretch = ROPE_INIT_FUNCTIONS[kind](config, "cpu")
    own = RoPE(base=500000.0, scaling=kind, factor=factor, original_length=length)
    assert torch.allclose(own.steps(width, theirs), theirs, rtol=2e-6, atol=0)
    assert own.attention_factor == pytest.approx(stretch)


@pytest.mark.slow
def test_ntk_scaling_is_that_of_transformers():
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    parameters = {"rope_type": "dynamic", "rope_theta": BASE, "factor": 3.0}
    config = LlamaConfig(
        hidden_size=256, num_attention_heads=4, max_position_embeddings=512, rope_parameters=parameters
    )
    theirs, _ = ROPE_INIT_FUNCTIONS["dynamic"](config, "cpu", seq_len=1024)
    # At twice the trained length the factor of theirs is 3 * 2 - 2.
    assert torch.allclose(RoPE(scaling="ntk", factor=4.0).steps(64, theirs), theirs, rtol=2e-6, atol=0)


@pytest.mark.slow
def test_the_turn_is_that_of_transformers():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    q, k = torch.randn(2, 1, 4, 9, D, generator=torch.Generator().manual_seed(2))
    at = torch.arange(3, 12)[None]
    rotary = LlamaRotaryEmbedding(LlamaConfig(hidden_size=4 * D, num_attention_heads=4))
    theirs = apply_rotary_pos_emb(q, k, *rotary(q, at))
    for own, other in zip((RoPE().turn(q, at), RoPE().turn(k, at)), theirs, strict=True):
        assert torch.allclose(own, other, atol=1e-6)
