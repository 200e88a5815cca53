"""The indicators by loops, on whole maps, in blocks, and of whole models."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

import regard
from regard.backbones import DecoderLM, stack
from regard.errors import ShapeError, Unsupported
from regard.lens import Indicators, concentration, diversity, entropy, local_focus, sink, watch
from regard.lens.tally import Tally
from regard.mechanisms import Layer
from regard.ops import rows

DIM = 16


def maps(N: int = 9, H: int = 3, B: int = 2, seed: int = 0) -> Tensor:
    scores = torch.randn(B, H, N, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    return scores.masked_fill(torch.ones(N, N).triu(1).bool(), -torch.inf).softmax(-1)


def by_loops(weights: Tensor) -> Indicators:
    """Each figure of maps [B, H, N, N], a number at a time."""
    B, H, N, _ = weights.shape
    total = dict.fromkeys(("entropy", "concentration", "diversity", "sink"), 0.0)
    local = [0.0] * min(4, N)
    for one in weights.tolist():
        for a in one:
            total["entropy"] -= sum(x * math.log(x) for row in a for x in row if x > 0) / N / (B * H)
            total["concentration"] += math.sqrt(sum(x * x for row in a for x in row)) / (B * H)
            total["sink"] += sum(row[0] for row in a) / N / (B * H)
            for n in range(len(local)):
                local[n] += sum(a[i][i - n] for i in range(n, N)) / (N - n) / (B * H)
        for i in range(N):
            for j in range(i + 1):
                heads = [a[i][j] for a in one]
                middle = sum(heads) / H
                spread = math.sqrt(sum((x - middle) ** 2 for x in heads) / H)
                total["diversity"] += 2 / (N * (N + 1)) * spread / B
    return Indicators(**total, local=tuple(local))


def close(one: Indicators | None, other: Indicators, rtol: float = 1e-10) -> None:
    assert one is not None
    for name in ("entropy", "concentration", "diversity", "sink", "local"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=rtol, abs=1e-12), name


def test_each_figure_by_loops() -> None:
    close(Indicators.of(maps()), by_loops(maps()))
    close(Indicators.of(maps(3)), by_loops(maps(3)))
    assert len(Indicators.of(maps(3)).local) == 3


def test_maps_that_are_known() -> None:
    N = 8
    own, first = torch.eye(N).double(), torch.zeros(N, N).double()
    first[:, 0] = 1
    mean = (torch.ones(N, N).tril() / torch.arange(1, N + 1)[:, None]).double()
    assert [float(entropy(one)) for one in (own, first)] == [0, 0]
    assert float(entropy(mean)) == pytest.approx(math.log(math.factorial(N)) / N)
    assert float(concentration(own)) == pytest.approx(N**0.5)
    assert float(concentration(mean)) == pytest.approx(sum(1 / n for n in range(1, N + 1)) ** 0.5)
    assert [float(sink(one)) for one in (own, first)] == [1 / N, 1]
    assert [float(local_focus(own, n)) for n in range(4)] == [1, 0, 0, 0]
    assert float(local_focus(torch.diag(torch.ones(N - 2), -2), 2)) == 1
    assert float(diversity(torch.stack([mean, mean]))) == 0
    # Two heads apart by 1 everywhere below the first column and on the diagonal, but at the first token.
    assert float(diversity(torch.stack([own, first]))) == pytest.approx(2 / (N * (N + 1)) * 2 * (N - 1) * 0.5)


def test_figures_of_many_maps_keep_their_axes() -> None:
    a = maps()
    assert entropy(a).shape == concentration(a).shape == sink(a).shape == local_focus(a, 1).shape == (2, 3)
    assert diversity(a).shape == (2,)


@pytest.mark.parametrize("wide", [1, 4, 100])
@pytest.mark.parametrize("by_queries", [True, False])
def test_blocks_add_up_to_the_whole(wide: int, by_queries: bool) -> None:
    a, at, tally = maps(), torch.arange(9)[None], Tally()
    for first in range(0, 9, wide):
        part = slice(first, first + wide)
        tally.add(*((a[:, :, part], at[:, part], at) if by_queries else (a[..., part], at, at[:, part])))
    close(tally.told(torch.tensor([9])), by_loops(a))


def test_padding_is_left_out_of_the_blocks() -> None:
    whole, tally = torch.full((2, 3, 8, 8), 7.0, dtype=torch.float64), Tally()
    whole[0, :, 3:, 3:] = maps(5, B=1)[0]
    whole[1, :, :6, :6] = maps(6, B=1, seed=1)[0]
    at = torch.tensor([[-1, -1, -1, 0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5, -1, -1]])
    tally.add(whole, at, at)
    one, other = by_loops(maps(5, B=1)), by_loops(maps(6, B=1, seed=1))
    told = tally.told(torch.tensor([5, 6]))
    assert told.entropy == pytest.approx((one.entropy + other.entropy) / 2)
    assert told.diversity == pytest.approx((one.diversity + other.diversity) / 2)
    assert told.sink == pytest.approx((one.sink + other.sink) / 2)
    assert told.local == pytest.approx([(a + b) / 2 for a, b in zip(one.local, other.local, strict=True)])


def test_a_pretrained_model_s_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "_SCORES", 1)  # blocks of 16 queries
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=32, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    config._attn_implementation = "eager"
    model = LlamaForCausalLM(config).double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "proj" in name:
                parameter.mul_(12)
    ids = torch.randint(50, (2, 33), generator=torch.Generator().manual_seed(1))
    before = model(ids, output_attentions=True)
    told = watch(model, ids)
    assert len(told) == 2
    for one, a in zip(told, before.attentions, strict=True):
        close(one, by_loops(a.detach()), 1e-6)  # transformers' own softmax is in float32
    assert abs(told[0].entropy - told[1].entropy) > 1e-3  # type: ignore[union-attr]
    assert torch.equal(model(ids).logits, before.logits)
    # Left padding, whose rows count for nothing.
    real = torch.ones(2, 38, dtype=torch.bool)
    real[:, :5] = False
    padded = torch.cat([torch.zeros(2, 5, dtype=torch.long), ids], 1)
    for one, two in zip(watch(model, padded, real), told, strict=True):
        assert two is not None
        close(one, two, 1e-6)


def test_what_sees_later_tokens_is_refused() -> None:
    config = BertConfig(vocab_size=20, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    with pytest.raises(Unsupported, match="a token looks at a later one"):
        watch(BertModel(config).eval(), torch.ones(1, 6, dtype=torch.long))


def model(*makers: Callable[[], Layer]) -> DecoderLM:
    torch.manual_seed(0)
    made = DecoderLM(11, DIM, stack(len(makers), *makers), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made.double()


def maker(name: str, **settings: object) -> Callable[[], Layer]:
    return lambda: regard.create(name, dim=DIM, heads=2, **settings)


def decon(variant: str, **settings: object) -> Callable[[], Layer]:
    return maker("deconstructed", variant=variant, rope=False, **settings)


def first_maps(made: DecoderLM, ids: Tensor, variant: str) -> Tensor:
    """The maps of layer 0, from its inputs and weights."""
    block = made._blocks()[0]
    embedded = made.embedding.weight[ids] * DIM**0.5
    x = block.before_attention(embedded)
    source = block.before_attention(block.attention.stream[None, : ids.shape[1]]) if variant == "rnd_fixed" else x
    if variant == "static_emb":
        source = embedded
    q, k = (part(source).unflatten(-1, (2, -1)).transpose(1, 2) for part in (block.attention.q, block.attention.k))
    s = q @ k.transpose(-1, -2) / (DIM // 2) ** 0.5
    if variant == "nonapprox":
        s = ((torch.sigmoid(q) * q * k).sum(-1) / (DIM // 2) ** 0.5)[..., None, :]
    a = (1 + s + s**2 / 2 if variant == "taylor" else s.exp()) * torch.ones(*ids.shape[1:] * 2).tril()
    return (a / a.sum(-1, keepdim=True)).expand(len(ids), -1, -1, -1)


@pytest.mark.parametrize("variant", ["standard", "taylor", "nonapprox", "rnd_fixed", "static_emb"])
def test_a_layer_of_ours_by_its_formula(variant: str) -> None:
    made = model(decon(variant), decon("standard"))
    ids = torch.randint(11, (2, 21), generator=torch.Generator().manual_seed(2))
    close(watch(made, ids)[0], by_loops(first_maps(made, ids, variant).detach()), 1e-6)


def test_slots_and_grouped_heads() -> None:
    torch.manual_seed(0)
    ids = torch.randint(11, (2, 13), generator=torch.Generator().manual_seed(2))
    whole = model(decon("standard"), decon("standard"))
    slots = model(maker("softmax"), maker("gqa", kv_heads=1))
    one, other = slots._blocks()[0], whole._blocks()[0]
    for name in ("q", "k", "v"):
        one.attention.projection.get_submodule(name).weight.data.copy_(other.attention.get_submodule(name).weight)
    one.attention.merge.load_state_dict({"out.weight": other.attention.out.weight}, strict=True)
    one.before_attention.load_state_dict(other.before_attention.state_dict())
    slots.embedding.weight.data.copy_(whole.embedding.weight)
    told = watch(slots, ids)
    close(told[0], by_loops(first_maps(whole, ids, "standard").detach()), 1e-6)
    assert told[1] is not None
    assert told[1].diversity > 0


def test_padding_counts_for_nothing_in_a_model_of_ours() -> None:
    made = model(decon("standard"), decon("rnd_fixed"), maker("softmax"))
    ids = torch.randint(11, (1, 21), generator=torch.Generator().manual_seed(2))
    real = torch.arange(25)[None] >= 4
    padded = torch.cat([torch.zeros(1, 4, dtype=torch.long), ids], 1)
    for one, other in zip(watch(made, padded, real), watch(made, ids), strict=True):
        assert other is not None
        close(one, other, 1e-6)


def test_a_layer_without_weights_and_one_that_is_watched_again() -> None:
    made, ids = model(decon("mlp"), decon("standard")), torch.arange(9)[None]
    before = made(ids)
    told = watch(made, ids)
    assert told[0] is None
    assert told == watch(made, ids)
    assert torch.equal(made(ids), before)
    assert not any(part._forward_hooks for part in made.modules())


def test_a_layer_that_reads_no_weighted_sum_is_refused() -> None:
    made = model(maker("softmax"))
    mixer = made._blocks()[0].attention.mixer
    plain = mixer.mix
    mixer.mix = lambda q, k, v, call: plain(q, k, v, call) ** 2
    with pytest.raises(Unsupported, match="no weighted sum of values"):
        watch(made, torch.arange(9)[None])


def test_what_does_not_fit_is_refused() -> None:
    made = model(decon("standard"))
    with pytest.raises(ShapeError, match=r"A map of attention is \[\.\.\., N, N\]; got \[3, 4\]"):
        entropy(torch.zeros(3, 4))
    with pytest.raises(ShapeError, match=r"maps \[\.\.\., H, N, N\]; got \[4, 4\]"):
        diversity(torch.zeros(4, 4))
    with pytest.raises(ValueError, match=r"n must be from 0 to 3 in a map of 4 tokens; got 4\."):
        local_focus(torch.zeros(4, 4), 4)
    with pytest.raises(ShapeError, match=r"ids \[B, N\] and padding of the same shape; got \[4\]\."):
        watch(made, torch.zeros(4, dtype=torch.long))
    with pytest.raises(ShapeError, match="a row is nothing but padding"):
        watch(made, torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.bool))
