"""Deconstructed attention: what each variant drops, and the variants whose cost is not the default's."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.core import Cost
from regard.layers import create
from regard.mechanisms.dense.deconstructed import VARIANTS, Deconstructed
from regard.testing import checks, run, subjects

(PLAIN, *_) = subjects("deconstructed")
DIM = PLAIN.dim


def layer(variant: str, **settings: object) -> Deconstructed:
    return PLAIN.layer(settings={"variant": variant, **settings})  # type: ignore[return-value]


@pytest.mark.parametrize("variant", ["taylor", "nonapprox", "mlp"])
def test_variants_of_linear_cost_keep_every_claim_at_that_cost(variant: str) -> None:
    # The spec has one cost, that of the default; these are the same claims with theirs.
    spec = dataclasses.replace(PLAIN.spec, cost=Cost(time=1, state=0), limits=())
    subject = dataclasses.replace(PLAIN, spec=spec, settings={"variant": variant})
    outcomes = [run(subject, check) for check in checks(subject)]
    failed = {outcome.check for outcome in outcomes if outcome.problem}
    assert len(outcomes) > 20
    mixes = {"causal: some past", "packed documents"}  # both ask that a token reads others
    assert failed == (mixes if variant == "mlp" else set()), outcomes


def test_a_given_stream_keeps_every_claim() -> None:
    stream = torch.randn(1024, DIM, generator=torch.Generator().manual_seed(4))
    settings = {"variant": "text_fixed", "stream": stream}
    subject = dataclasses.replace(PLAIN, spec=dataclasses.replace(PLAIN.spec, limits=()), settings=settings)
    skipped = {"compiles", "cost: time"}  # the same code as rnd_fixed
    assert [o for check in checks(subject) if check.name not in skipped and (o := run(subject, check)).problem] == []


def test_variants_have_as_many_parameters_as_attention() -> None:
    stream = torch.randn(5, DIM)
    for variant in VARIANTS:
        made = create(
            "deconstructed", dim=DIM, heads=4, variant=variant, stream=stream if variant == "text_fixed" else None
        )
        assert sum(p.numel() for p in made.parameters()) == pytest.approx(4 * DIM**2, rel=0.01), variant


def test_mlp_mixes_nothing() -> None:
    made, x = layer("mlp"), PLAIN.tokens()
    (slope,) = torch.autograd.grad(made(x.requires_grad_(), causal=True)[:, 5].sum(), x)
    assert slope[:, 5].abs().min() > 0
    assert slope[:, :5].abs().max() == slope[:, 6:].abs().max() == 0
    gate, up, down = (getattr(made, name).weight for name in ("gate", "up", "down"))
    x = x.detach()
    want = (torch.sigmoid(x @ gate.T) * (x @ gate.T) * (x @ up.T)) @ down.T
    assert torch.allclose(made(x, causal=True), want, atol=1e-12)


def weights_of(made: Deconstructed, x: Tensor, **given: Tensor) -> Tensor:
    """The weights [H, N, N] of a layer, read off one value feature of each head at a time."""
    H, D, N = made.heads, made.width, x.shape[1]
    with torch.no_grad():
        made.out.weight.copy_(torch.eye(DIM, dtype=x.dtype))
        value = made.v.weight.clone()
        made.v.weight.zero_()
    jacobian = torch.zeros(H, N, N, dtype=x.dtype)
    for h in range(H):
        # The output is linear in the values: with a value map of a single feature, a token's value is what it holds.
        with torch.no_grad():
            made.v.weight[h * D] = value[h * D]
        hold = (x[0] @ value[h * D]).detach()
        x_ = x.detach().clone()
        base = made(x_, causal=True, **given)[0, :, h * D]
        for j in range(N):
            # Move value j alone, along a direction that queries and keys do not see.
            kernel = torch.linalg.svd(torch.cat([made.q.weight, made.k.weight])).Vh[-1]
            moved = x_.clone()
            moved[0, j] += kernel
            jacobian[h, :, j] = (made(moved, causal=True, **given)[0, :, h * D] - base) / (kernel @ value[h * D])
        assert torch.allclose(jacobian[h] @ hold, base, atol=1e-6)
        with torch.no_grad():
            made.v.weight.zero_()
    return jacobian


def narrow(variant: str, **settings: object) -> Deconstructed:
    """A layer whose queries and keys leave directions of the tokens unread, so that a value can move alone."""
    made = layer(variant, **settings)
    with torch.no_grad():
        for part in (made.q, made.k):
            part.weight[:, -1] = 0
    return made


@pytest.mark.parametrize("variant", ["standard", "taylor", "nonapprox", "static_emb", "rnd_fixed"])
def test_weights_are_a_mean_over_the_past(variant: str) -> None:
    x = PLAIN.tokens(batch=1, length=8)
    given = {"embeddings": x} if variant == "static_emb" else {}
    found = weights_of(narrow(variant), x, **given)
    assert torch.allclose(found.sum(-1), torch.ones(4, 8, dtype=found.dtype), atol=1e-6)
    assert found.min() > -1e-9
    assert found.triu(1).abs().max() < 1e-9


def test_nonapprox_ratios_do_not_depend_on_who_asks() -> None:
    found = weights_of(narrow("nonapprox"), PLAIN.tokens(batch=1, length=8))
    for j in range(7):
        ratio = found[:, j + 1 :, j] / found[:, j + 1 :, j + 1]
        assert torch.allclose(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-5)


def test_fixed_weights_are_the_same_for_any_two_inputs() -> None:
    made = narrow("rnd_fixed")
    x, other = PLAIN.tokens(batch=1, length=8), 5 * PLAIN.tokens(seed=3, batch=1, length=8)
    value = made.v.weight.clone()
    first = weights_of(made, x)
    with torch.no_grad():
        made.v.weight.copy_(value)
    assert torch.allclose(weights_of(made, other), first, atol=1e-6)


def test_taylor_nears_softmax_with_the_third_power_of_the_scores() -> None:
    x, off = PLAIN.tokens(), []
    for size in (0.2, 0.1, 0.05):
        made = [layer("taylor"), layer("standard")]
        for one in made:
            with torch.no_grad():
                one.q.weight.mul_(size)
        off.append(float((made[0](x, causal=True) - made[1](x, causal=True)).abs().max()))
    assert off[0] / off[1] == pytest.approx(8, rel=0.25)
    assert off[1] / off[2] == pytest.approx(8, rel=0.15)


@pytest.mark.parametrize("variant", ["taylor", "nonapprox"])
def test_running_sums_go_on_from_chunk_to_chunk(variant: str) -> None:
    made, x = layer(variant), PLAIN.tokens(length=150)
    out = made(x, causal=True)
    q, k, v = (part(x).unflatten(-1, (4, -1)).transpose(1, 2) for part in (made.q, made.k, made.v))
    if variant == "taylor":
        q, k = turned(q), turned(k)
        s = q @ k.transpose(-1, -2) / made.width**0.5
        weights = (1 + s + s**2 / 2).tril()
    else:
        s = (F.silu(q) * k).sum(-1) / made.width**0.5
        weights = s.exp()[:, :, None].expand(-1, -1, 150, -1).tril()
    want = made.out(((weights / weights.sum(-1, keepdim=True)) @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(out, want, atol=1e-10)


def turned(x: Tensor) -> Tensor:
    """Rotary positions in complex numbers, halves paired."""
    half = x.shape[-1] // 2
    rates = torch.tensor([10_000.0 ** (-f / half) for f in range(half)], dtype=torch.float64)
    angle = torch.arange(x.shape[-2])[:, None] * rates
    both = torch.complex(x[..., :half], x[..., half:]) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat([both.real, both.imag], -1)


@pytest.mark.parametrize("variant", ["standard", "rnd_fixed", "static_emb"])
def test_rotary_positions_turn_queries_and_keys(variant: str) -> None:
    made, x = layer(variant), PLAIN.tokens()
    source = made.stream[:12][None].expand_as(x) if variant == "rnd_fixed" else x
    q, k = (turned(part(source).unflatten(-1, (4, -1)).transpose(1, 2)) for part in (made.q, made.k))
    v = made.v(x).unflatten(-1, (4, -1)).transpose(1, 2)
    s = (q @ k.transpose(-1, -2) / made.width**0.5).masked_fill(torch.ones(12, 12).triu(1).bool(), -torch.inf)
    want = made.out((s.softmax(-1) @ v).transpose(1, 2).flatten(2))
    assert torch.allclose(made(x, causal=True, embeddings=x), want, atol=1e-10)


def test_great_scores_of_later_tokens_leave_earlier_outputs_exact() -> None:
    made, x = layer("nonapprox").float(), PLAIN.tokens(length=6).float()
    loud = torch.cat([x, 300 * x], 1)  # scores grow with the square
    assert torch.allclose(made(loud, causal=True)[:, :6], made(x, causal=True), atol=1e-6)


def test_decoding_of_a_fixed_sequence_keeps_one_table_of_keys_for_all_rows() -> None:
    made, x = layer("rnd_fixed"), PLAIN.tokens(batch=3)
    _, state = made.prefill(x)
    assert state.inner.keys.shape == (1, 4, 12, 8)
    assert [part.shape for part in state.inner.held.parts] == [(3, 4, 12, 8)]
    one, state = made.step(made.reorder(state, torch.tensor([0])), x[:1, :1])
    assert torch.allclose(one, made(torch.cat([x[:1], x[:1, :1]], 1), causal=True)[:, -1:], atol=1e-10)
    _, alone = made.prefill(x[:1])
    three, after = made.step(made.reorder(alone, torch.tensor([0, 0, 0])), x[:1, :1].expand(3, -1, -1))
    assert torch.allclose(three, one.expand(3, -1, -1), atol=1e-10)
    assert after.inner.keys.shape == (1, 4, 13, 8)


def test_a_stream_is_scaled_to_a_mean_square_of_one() -> None:
    stream = torch.randn(20, DIM, dtype=torch.float64)
    made, scaled = (layer("text_fixed", stream=one) for one in (stream, 7 * stream))
    assert torch.allclose(made.stream.square().mean(-1), torch.ones(20, dtype=torch.float64), atol=1e-6)
    x = PLAIN.tokens()
    assert torch.allclose(made(x, causal=True), scaled(x, causal=True), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"variant": "tailor"}, r"variant must be one of 'standard', 'mlp', .*'static_emb'; got 'tailor'"),
        ({"variant": "text_fixed"}, r"Type variant='text_fixed', stream=embedding\(ids\)"),
        ({"stream": torch.zeros(4, DIM)}, "go together"),
        (
            {"variant": "text_fixed", "stream": torch.zeros(4, 5)},
            r"floats \[length, 32\] or token ids \[length\]; got torch.float32 \[4, 5\]",
        ),
        (
            {"variant": "text_fixed", "stream": torch.zeros(4, 1, dtype=torch.long)},
            r"ids \[length\]; got torch.int64 \[4, 1\]",
        ),
        (
            {"variant": "text_fixed", "stream": torch.zeros(4, dtype=torch.bool)},
            r"ids \[length\]; got torch.bool \[4\]",
        ),
        ({"variant": "text_fixed", "stream": ()}, r"ids \[length\]; got torch.float32 \[0\]"),
        ({"variant": "rnd_fixed", "length": 0}, "length must be at least 1; got 0"),
        ({"base": 0.0}, "base must be greater than 0; got 0.0"),
    ],
)
def test_settings_out_of_range_are_refused_in_words(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Deconstructed(DIM, 4, **settings)  # type: ignore[arg-type]


def test_calls_that_cannot_be_served_are_refused_in_words() -> None:
    x = PLAIN.tokens()
    with pytest.raises(ValueError, match=r"embeddings=embedding\(ids\)"):
        layer("static_emb")(x, causal=True)
    short = layer("rnd_fixed", length=8)
    with pytest.raises(ValueError, match=r"has 8 positions and token 11 .* length=12"):
        short(x, causal=True)
    with pytest.raises(ValueError, match=r"has 8 positions and token 8 .* length=9"):
        short.step(short.prefill(x[:, :8])[1], x[:, 8:9])
    with pytest.raises(
        ValueError, match=r"can't embed the token ids of its stream by itself. Put the layer into a DecoderLM"
    ):
        layer("text_fixed", stream=[3, 1, 4])(x, causal=True)
    with pytest.raises(ValueError, match="odd width 3. Type rope=False"):
        Deconstructed(12, 4)
    assert Deconstructed(12, 4, rope=False)(torch.zeros(1, 3, 12), causal=True).shape == (1, 3, 12)


def test_a_layer_reads_another_fixed_sequence_with_its_own_parameters() -> None:
    made, x = layer("rnd_fixed"), PLAIN.tokens()
    stream = torch.randn(30, DIM, generator=torch.Generator().manual_seed(5), dtype=torch.float64, requires_grad=True)
    other = made.reading(stream)
    given = layer("rnd_fixed")
    given.load_state_dict({**made.state_dict(), "stream": torch.zeros_like(made.stream)})
    given.stream = stream
    out = other(x, causal=True)
    assert torch.equal(out, given(x, causal=True))
    assert not torch.allclose(out, made(x, causal=True))
    assert [id(p) for p in other.parameters()] == [id(p) for p in made.parameters()]
    (slope,) = torch.autograd.grad(out.square().sum(), stream)
    assert slope[:12].abs().sum(-1).min() > 0
    assert slope[12:].abs().max() == 0
    with pytest.raises(ValueError, match=r"has 5 positions and token 11 .* length=12"):
        made.reading(stream[:5])(x, causal=True)
    assert made.length == 2048


def test_great_scores_of_one_document_leave_the_next_exact() -> None:
    made, x = layer("nonapprox").float(), PLAIN.tokens(length=6).float()
    row, ids = torch.cat([300 * x, x], 1), torch.tensor([0] * 6 + [1] * 6)
    assert torch.allclose(made(row, causal=True, documents=ids)[:, 6:], made(x, causal=True), atol=1e-6)


@pytest.mark.parametrize("variant", ["taylor", "nonapprox"])
def test_documents_that_end_on_or_beside_the_edge_of_a_chunk(variant: str) -> None:
    made = layer(variant)
    lengths = [64, 64, 30, 100, 1]  # chunks are 64 tokens long
    parts = [PLAIN.tokens(seed=n, batch=1, length=length) for n, length in enumerate(lengths)]
    ids = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    alone = torch.cat([made(part, causal=True) for part in parts], 1)
    assert torch.allclose(made(torch.cat(parts, 1), causal=True, documents=ids), alone, atol=1e-10)
