"""The layer with four slots: against torch's own, and what it says of wrong input."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.caches import Held
from regard.core import Cost, Source, Spec
from regard.edits import Bias, Edit
from regard.errors import RegardError, ShapeError, Unsupported
from regard.layers import Attention
from regard.mechanisms import Call, Mixer, Position

F64 = torch.float64


def tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def torch_s(layer: Attention) -> nn.MultiheadAttention:
    """torch's own multi-head attention with the same weights."""
    other = nn.MultiheadAttention(layer.dim, layer.heads, batch_first=True, dtype=F64)
    p, merge = layer.projection, layer.merge
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([p.q.weight, p.k.weight, p.v.weight]))
        other.in_proj_bias.copy_(torch.cat([p.q.bias, p.k.bias, p.v.bias]))
        other.out_proj.weight.copy_(merge.out.weight)
        other.out_proj.bias.copy_(merge.out.bias)
    return other.eval()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_the_plain_slots_are_torch_s_multi_head_attention(causal: bool, padded: bool) -> None:
    layer = Attention(24, 3, projection="mha:bias=true", merge="concat:bias=true").double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter, std=0.3, generator=torch.Generator().manual_seed(1))
    x = tokens(2, 9, 24)
    real = torch.ones(2, 9, dtype=torch.bool)
    if padded:
        real[1, 6:] = False
    hidden = torch.ones(9, 9, dtype=torch.bool).triu(1) if causal else None
    want = torch_s(layer)(x, x, x, key_padding_mask=~real, attn_mask=hidden, need_weights=False)[0]
    got = layer(x, causal=causal, padding=real)
    assert torch.allclose(got[real], want[real], atol=1e-12)


def test_another_sequence_is_torch_s_cross_attention() -> None:
    layer = Attention(24, 3, projection="mha:bias=true", merge="concat:bias=true").double()
    x, y = tokens(2, 5, 24), tokens(2, 11, 24, seed=1)
    real = torch.ones(2, 11, dtype=torch.bool)
    real[0, :4] = False
    want = torch_s(layer)(x, y, y, key_padding_mask=~real, need_weights=False)[0]
    assert torch.allclose(layer(x, y, memory_padding=real), want, atol=1e-12)


def test_positions_that_are_given_decide_what_is_later() -> None:
    layer, x = Attention(16, 2).double(), tokens(1, 6, 16)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    shuffled = layer(x, causal=True, positions=order)
    sorted_ = layer(x[:, order.argsort()], causal=True)
    assert torch.allclose(shuffled[:, order.argsort()], sorted_, atol=1e-12)


def test_a_cache_of_a_size_keeps_sinks_and_the_last_tokens() -> None:
    layer, x = Attention(16, 2, cache=Held(size=4, sinks=1)).double(), tokens(2, 12, 16)
    q, k, v = layer.projection(Call(tokens=x, memory=x))
    state, outs = layer.init_state(2), []
    for n in range(12):
        out, state = layer.step(state, x[:, n : n + 1])
        outs.append(out)
        assert state.inner.kept.parts[0].shape[2] <= 6  # the sink, four before, and the token itself
    for n in range(12):
        seen = sorted({0, *range(max(0, n - 4), n + 1)})
        scores = torch.einsum("bhd,bhmd->bhm", q[:, :, n], k[:, :, seen]) / 8**0.5
        read = torch.einsum("bhm,bhmd->bhd", scores.softmax(-1), v[:, :, seen]).flatten(1)
        assert torch.allclose(outs[n][:, 0], layer.merge.out(read), atol=1e-12)


class Ahead(Position):
    """Adds to the tokens, turns, and edits scores: every place where a position may act."""

    spec = Spec(id="ahead", slot="position", source=Source("A probe"), what="A probe.", cross=True, scores=True,
                cost=Cost(time=1, state=0))  # fmt: skip

    def embed(self, tokens: Tensor, positions: Tensor) -> Tensor:
        return tokens + positions.clamp(min=0)[..., None].to(tokens.dtype) * 0.1

    def turn(self, x: Tensor, positions: Tensor) -> Tensor:
        return x * (1 + positions.clamp(min=0)[:, None, :, None].to(x.dtype) * 0.2)

    def edits(self, q: Tensor, k: Tensor, call: Call) -> tuple[Edit, ...]:
        i, j = call.q_at(q.shape[2], k.shape[2])[:, :, None], call.k_at(k.shape[2])[:, None, :]
        return (Bias((i - j)[:, None].to(q.dtype) * 0.3),)


def test_a_position_acts_at_all_three_places_step_by_step_too() -> None:
    layer, x = Attention(16, 2, position=Ahead()).double(), tokens(2, 7, 16)
    at = torch.arange(7, dtype=F64)
    y = x + at[:, None] * 0.1
    q, k, v = (
        m(y).unflatten(-1, (2, 8)).transpose(1, 2) for m in (layer.projection.q, layer.projection.k, layer.projection.v)
    )
    q, k = (t * (1 + at[:, None] * 0.2) for t in (q, k))
    scores = q @ k.transpose(-1, -2) / 8**0.5 + (at[:, None] - at) * 0.3
    scores = scores.masked_fill(torch.ones(7, 7, dtype=torch.bool).triu(1), -torch.inf)
    want = layer.merge.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(layer(x, causal=True), want, atol=1e-12)
    state, outs = layer.init_state(2), []
    for n in range(7):
        out, state = layer.step(state, x[:, n : n + 1])
        outs.append(out)
    assert torch.allclose(torch.cat(outs, 1), want, atol=1e-12)


class NoEdits(Mixer):
    spec = Spec(id="no_edits", slot="mixer", source=Source("A probe"), what="A probe.", gqa=False, decode=False,
                cost=Cost(time=2, state=1))  # fmt: skip

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.attend(q, k, v)


def test_slots_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(Unsupported, match="Ahead edits scores and NoEdits has none to edit. Type position='rope'"):
        Attention(16, 2, position=Ahead(), mixer=NoEdits())
    with pytest.raises(Unsupported, match="NoEdits needs as many key heads as query heads, and MQA makes 1 for 2"):
        Attention(16, 2, projection="mqa", mixer=NoEdits())
    with pytest.raises(Unsupported, match="^NoEdits can't decode step by step"):
        Attention(16, 2, mixer=NoEdits()).init_state(1)
    q, x = torch.zeros(1, 2, 3, 8), torch.zeros(1, 3, 16)
    call = Call(tokens=x, memory=x, edits=(Bias(torch.zeros(1, 1, 3, 3)),))
    with pytest.raises(Unsupported, match="NoEdits has no scores to edit, and the position asks for Bias"):
        NoEdits()(q, q, q, call)


X, PLACES = torch.zeros(2, 5, 16), torch.arange(5)
WRONG = [
    (lambda f: f(X[0]), ShapeError, r"Attention takes tokens \[B, N, 16\]; got \[5, 16\]"),
    (lambda f: f(X, X[..., :3]), ShapeError, r"Attention takes memory \[B, N, 16\]; got \[2, 5, 3\]"),
    (lambda f: f(X, X[:1]), ShapeError, "tokens have batch 2 and memory 1"),
    (lambda f: f(X, X, causal=True), ValueError, "causal=True has no meaning across two sequences"),
    (lambda f: f(X, memory_padding=torch.ones(2, 5, dtype=torch.bool)), ValueError, "need memory"),
    (lambda f: f(X, padding=torch.ones(2, 5)), ShapeError, r"padding must be booleans \[2, 5\].*Use .bool\(\)"),
    (lambda f: f(X, X, memory_padding=torch.ones(2, 4, dtype=torch.bool)), ShapeError, "memory_padding must be"),
    (lambda f: f(X, positions=torch.arange(4)), ShapeError, r"positions must be whole numbers \[5\] or \[2, 5\]"),
    (lambda f: f(X, positions=torch.arange(5.0)), ShapeError, "positions must be whole numbers"),
    (lambda f: f(X, embeddings=X[:1]), ShapeError, r"embeddings must be \[2, 5, 16\] as the tokens"),
    (lambda f: f.step(f.init_state(2), X, embeddings=X[:1]), ShapeError, r"embeddings must be \[2, 5, 16\]"),
    (lambda f: f(X, documents=torch.zeros(4).long()), ShapeError, r"documents must be whole numbers \[5\] or \[2, 5\]"),
    (lambda f: f(X, documents=torch.zeros(5)), ShapeError, "documents must be whole numbers"),
    (lambda f: f(X, documents=torch.tensor([0, 0, 1, 0, 0])), ValueError, "documents must never fall"),
    (lambda f: f(X, X, documents=torch.zeros(5).long()), ValueError, "can't be given together with memory"),
    (lambda f: f(X, positions=PLACES, documents=PLACES), ValueError, "can't be given together with positions"),
]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG, ids=[text for _, _, text in WRONG])
def test_wrong_input_says_what_to_type(call, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call(Attention(16, 2))


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(ShapeError, match=r"dim=16 is not a multiple of heads=3. Type heads=2, or another dim"):
        Attention(16, 3)
    with pytest.raises(ValueError, match=r"needs dim >= 1 and heads >= 1; got dim=16, heads=0"):
        Attention(16, 0)
    with pytest.raises(ValueError, match=r"GQA.kv_heads=3 must divide heads=4. Type kv_heads=2"):
        Attention(16, 4, projection="gqa:kv_heads=3")
    with pytest.raises(RegardError, match="'softmax' is a mixer, not a merge. Type mixer='softmax'"):
        Attention(16, 4, merge="softmax")
    with pytest.raises(RegardError, match="mixer must be a name or a Mixer; got int"):
        Attention(16, 4, mixer=3)  # type: ignore[arg-type]


def test_a_state_of_another_layer_is_refused() -> None:
    layer, other = Attention(16, 2), Attention(16, 4)
    _, state = layer.prefill(X)
    with pytest.raises(ShapeError, match="do not continue what is held"):
        other.step(state, X[:, :1])


def test_every_combination_of_plain_slots_decodes() -> None:
    names = (["mha", "gqa", "mqa"], ["softmax"], ["concat"])
    for projection, mixer, merge in itertools.product(*names):
        layer = Attention(16, 4, projection=projection, mixer=mixer, merge=merge)
        out, state = layer.prefill(X)
        assert out.shape == X.shape
        assert layer.step(state, X[:, :1])[0].shape == (2, 1, 16)


def test_create_gives_the_layer() -> None:
    layer = regard.create("gqa", dim=16, heads=4, kv_heads=1, mixer="softmax:scale=0.5")
    assert isinstance(layer, Attention)
    assert (layer.projection.kv_heads, layer.mixer.scale) == (1, 0.5)
