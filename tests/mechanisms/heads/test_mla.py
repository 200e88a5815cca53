"""Latent attention: what is kept, which features a position turns, and the same weights in transformers."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from regard.core import Cost, Source, Spec
from regard.errors import ShapeError
from regard.layers import Attention, create
from regard.mechanisms import Position
from regard.mechanisms.heads import MLA


class Halves(Position):
    """Rotates the first half of the features against the second."""

    spec: ClassVar[Spec] = Spec(
        id="halves", slot="position", source=Source("none"), what="", cross=True, cost=Cost(1, 0)
    )

    def turn(self, x: Tensor, positions: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        angle = positions.clamp_min(0)[:, None, :, None] * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1).to(x.dtype)


def tokens(N: int = 7) -> Tensor:
    return torch.randn(2, N, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_decoding_keeps_the_latent_and_the_shared_key_alone():
    for settings, shapes in (
        ({"kv_rank": 12, "rope_dim": 4}, [[2, 1, 5, 12], [2, 1, 5, 4]]),
        ({"kv_rank": 12, "placement": "full"}, [[2, 1, 5, 12]]),
    ):
        _, state = create("mla", dim=32, heads=4, **settings).prefill(torch.randn(2, 5, 32))
        assert [list(part.shape) for part in state.inner.kept.parts] == shapes


def test_sizes_by_default():
    projection = MLA(512, 4)
    assert (projection.nope_dim, projection.rope_dim, projection.v_dim, projection.kv_rank) == (128, 64, 128, 512)
    assert MLA(5120, 128, nope_dim=128, v_dim=128, q_rank=1536).kv_rank == 512  # DeepSeek-V2's
    assert (MLA(32, 4).rope_dim, MLA(12, 4).rope_dim, MLA(24, 4).rope_dim) == (4, 2, 2)
    MLA(5120, 3, nope_dim=64, v_dim=64)  # dim need not be a multiple of heads


@pytest.mark.parametrize("placement", ["decoupled", "full"])
def test_a_position_turns_what_it_should(placement):
    torch.manual_seed(0)
    made = Attention(32, 4, projection=MLA(32, 4, placement=placement), position=Halves()).double()
    p, x = made.projection, tokens()
    latent = p.kv_norm(p.kv_down(x))
    q, k = (y.unflatten(-1, (4, -1)).transpose(1, 2) for y in (p.q(x), p.k_up(latent)))
    v = p.v_up(latent).unflatten(-1, (4, -1)).transpose(1, 2)
    at = torch.arange(7)[None]
    turn = made.position.turn
    if placement == "full":
        q, k = turn(q, at), turn(k, at)
    else:
        shared = turn(p.k_rope(x)[:, None], at).expand(-1, 4, -1, -1)
        q, k = torch.cat([q[..., :8], turn(q[..., 8:], at)], -1), torch.cat([k, shared], -1)
    scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(torch.ones(7, 7).triu(1).bool(), -torch.inf)
    want = made.merge.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    torch.testing.assert_close(made(x, causal=True), want, rtol=0, atol=1e-12)
    # Decoding turns keys again at every step, from what it kept unturned.
    state, outs = made.init_state(2), []
    for n in range(7):
        out, state = made.step(state, x[:, n : n + 1])
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), want, rtol=0, atol=1e-12)


def test_with_a_latent_of_everything_it_is_multi_head_attention():
    torch.manual_seed(0)
    made, plain = (
        create("mla", dim=32, heads=4, placement="full", kv_rank=32).double(),
        create("mha", dim=32, heads=4).double(),
    )
    with torch.no_grad():
        made.projection.kv_down.weight.copy_(torch.eye(32))
    made.projection.kv_norm = nn.Identity()
    for mine, theirs in (("q", "q"), ("k_up", "k"), ("v_up", "v")):
        plain.projection.get_submodule(theirs).load_state_dict(made.projection.get_submodule(mine).state_dict())
    plain.merge.load_state_dict(made.merge.state_dict())
    torch.testing.assert_close(made(tokens(), causal=True), plain(tokens(), causal=True), rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("q_rank", [None, 16])
def test_equals_transformers(q_rank):
    modeling = pytest.importorskip("transformers.models.deepseek_v3.modeling_deepseek_v3")
    config = modeling.DeepseekV3Config(
        hidden_size=32, num_attention_heads=4, num_key_value_heads=4, q_lora_rank=q_rank, kv_lora_rank=12,
        qk_nope_head_dim=6, qk_rope_head_dim=4, v_head_dim=10, rope_interleave=False, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = modeling.DeepseekV3Attention(config, 0).double().eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.dim() == 1))
    projection = MLA(32, 4, kv_rank=12, q_rank=q_rank, nope_dim=6, rope_dim=4, v_dim=10)
    made = Attention(32, 4, projection=projection, position=Halves()).double()
    down, up = theirs.kv_a_proj_with_mqa.weight, theirs.kv_b_proj.weight.unflatten(0, (4, 16))
    weights = {
        "kv_down.weight": down[:12], "k_rope.weight": down[12:], "kv_norm.weight": theirs.kv_a_layernorm.weight,
        "k_up.weight": up[:, :6].flatten(0, 1), "v_up.weight": up[:, 6:].flatten(0, 1),
    }  # fmt: skip
    if q_rank is None:
        weights["q.weight"] = theirs.q_proj.weight
    else:
        weights |= {
            "q_down.weight": theirs.q_a_proj.weight,
            "q_norm.weight": theirs.q_a_layernorm.weight,
            "q.weight": theirs.q_b_proj.weight,
        }
    projection.load_state_dict(weights)
    made.merge.out.load_state_dict(theirs.o_proj.state_dict())
    x, at = tokens(), torch.arange(7)[None]
    places = modeling.DeepseekV3RotaryEmbedding(config)(x, at)
    mask = torch.full((7, 7), -torch.inf, dtype=torch.float64).triu(1)[None, None]
    want, _ = theirs(x, position_embeddings=places, attention_mask=mask)
    # Their softmax and their angles are in float32.
    torch.testing.assert_close(made(x, causal=True), want, rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"placement": "none"}, "placement must be one of 'decoupled', 'full'; got 'none'"),
        ({"placement": "full", "rope_dim": 4}, "rope_dim=4 has no use with placement='full'"),
        ({"rope_dim": 0}, "rope_dim must be at least 2; got 0"),
        ({"kv_rank": 0}, "kv_rank must be at least 1; got 0"),
        ({"q_rank": 0}, "q_rank must be at least 1; got 0"),
        ({"nope_dim": -1}, "nope_dim must be at least 1; got -1"),
    ],
)
def test_bad_settings_are_named(settings, text):
    with pytest.raises(ValueError, match=text):
        MLA(32, 4, **settings)


def test_bad_sizes_are_named():
    with pytest.raises(ShapeError, match="rope_dim must be even; got 5. Type rope_dim=6"):
        MLA(32, 4, rope_dim=5)
    with pytest.raises(ShapeError, match="dim=32 is not a multiple of heads=5"):
        MLA(32, 5)
