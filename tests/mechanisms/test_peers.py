"""The same weights in a public package's layer: x-transformers computes what these mechanisms do."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from x_transformers.x_transformers import AlibiPositionalBias, RelativePositionBias
from x_transformers.x_transformers import Attention as Peer

from regard.layers import Attention

pytestmark = pytest.mark.slow
DIM, HEADS, WIDTH, LENGTH = 32, 4, 8, 20
ROUNDING = 2e-6  # the peer normalises in float32


def both(causal: bool, settings: dict[str, Any], **slots: str) -> tuple[Attention, Peer]:
    """Our layer and the peer's, with one set of weights."""
    torch.manual_seed(0)
    ours = Attention(DIM, HEADS, **slots).double().eval()  # type: ignore[arg-type]
    theirs = Peer(DIM, dim_head=WIDTH, heads=HEADS, causal=causal, **settings).double().eval()
    pairs = {"to_q": ours.projection.q, "to_k": ours.projection.k, "to_v": ours.projection.v, "to_out": ours.merge.out}
    with torch.no_grad():
        for name, own in pairs.items():
            getattr(theirs, name).weight.copy_(own.weight)
    return ours, theirs


def apart(ours: Attention, theirs: Peer, causal: bool, **extra: Any) -> float:
    """The largest difference between the two layers' outputs."""
    x = torch.randn(2, LENGTH, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    want = theirs(x, **extra)
    want = want[0] if isinstance(want, tuple) else want
    return float((ours(x, causal=causal) - want).abs().max())


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("slots", "settings"),
    [
        ({}, {}),
        ({"projection": "mqa"}, {"one_kv_head": True}),
        ({"mixer": "cog_attention"}, {"cog_signed": True}),
    ],
)
def test_the_same_weights_give_the_same(causal: bool, slots: dict[str, str], settings: dict[str, Any]) -> None:
    assert apart(*both(causal, settings, **slots), causal) < ROUNDING


@pytest.mark.parametrize("causal", [True, False])
def test_grouped_heads_in_the_peer_s_order(causal: bool) -> None:
    ours, theirs = both(causal, {"kv_heads": 2}, projection="gqa:kv_heads=2")
    order = [0, 2, 1, 3]  # its query head h reads group h % 2, ours h // 2
    with torch.no_grad():
        theirs.to_q.weight.copy_(ours.projection.q.weight.unflatten(0, (HEADS, WIDTH))[order].flatten(0, 1))
        theirs.to_out.weight.copy_(ours.merge.out.weight.unflatten(1, (HEADS, WIDTH))[:, order].flatten(1))
    assert apart(ours, theirs, causal) < ROUNDING


def test_sinks() -> None:
    ours, theirs = both(True, {"head_learned_sink": True}, mixer="softmax_with_sinks")
    with torch.no_grad():
        sinks = next(ours.mixer.parameters())
        sinks.copy_(torch.tensor([0.5, -1.0, 2.0, 0.0]))
        theirs.attend.head_attn_sink.copy_(sinks)
    assert apart(ours, theirs, True) < ROUNDING


def test_contextual_positions() -> None:
    ours, theirs = both(True, {"use_cope": True, "cope_max_pos": 6}, position="cope:npos=6,div=false")
    with torch.no_grad():
        nn.init.normal_(ours.position.table)
        # The peer's position scores are not scaled, and neither are ours with div=false.
        theirs.attend.cope.pos_emb.copy_(ours.position.table.T)
    assert apart(ours, theirs, True) < ROUNDING


def alibi() -> nn.Module:
    return AlibiPositionalBias(HEADS)


def t5(causal: bool) -> Callable[[], nn.Module]:
    return lambda: RelativePositionBias(1.0, causal=causal, num_buckets=8, max_distance=12, heads=HEADS)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("name", ["alibi", "t5:buckets=8,max_distance=12"])
def test_biases(causal: bool, name: str) -> None:
    ours, theirs = both(causal, {}, position=name)
    bias = (alibi if name == "alibi" else t5(causal))().double()
    if name != "alibi":
        with torch.no_grad():
            table: Tensor = ours.position.table
            nn.init.normal_(table)
            bias.relative_attention_bias.weight.copy_(table)
    assert apart(ours, theirs, causal, rel_pos=bias) < ROUNDING
