"""Frequencies and positional heads of a pretrained model, against the model's own maps and weights."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import regard
from regard.errors import RegardError
from regard.hf import Intervention
from regard.lens.frequencies import FrequencyUsage, MutePairs, PositionalHeads

LAYERS, HEADS, GROUPS, D = 2, 4, 2, 8


@functools.cache
def tiny() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=HEADS * D, intermediate_size=40, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=GROUPS, initializer_range=0.3,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def text(length: int = 9) -> Tensor:
    return torch.randint(50, (2, length), generator=torch.Generator().manual_seed(1))


def read(ids: Tensor, *what: Intervention, model: LlamaForCausalLM | None = None, **inputs: Tensor) -> Tensor:
    model = tiny() if model is None else model
    with torch.no_grad(), regard.apply(model, *what, meter=False):
        return model(input_ids=ids, **inputs).logits


def projected(ids: Tensor, name: str) -> list[Tensor]:
    """What every layer's `name` gives, before any rotation: [B, N, heads, D] each."""
    kept: list[Tensor] = []
    hooks = [
        part.register_forward_hook(lambda _m, _i, out: kept.append(out.unflatten(-1, (-1, D)).double()))
        for path, part in tiny().named_modules()
        if path.endswith(name) and isinstance(part, nn.Linear)
    ]
    with torch.no_grad():
        tiny()(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return kept


@pytest.mark.parametrize("interleaved", [False, True])
def test_usage_is_the_length_of_pairs_before_they_turn(interleaved):
    if (
        interleaved
    ):  # lengths of neighbouring features are not kept by this model's rotation: at position 0 nothing turns
        ids = text(1)
    else:
        ids = text()
    usage = FrequencyUsage(interleaved=interleaved)
    read(ids, usage)
    assert usage.q.shape == usage.k.shape == usage.both.shape == (LAYERS, HEADS, D // 2)
    for layer, (q, k) in enumerate(zip(projected(ids, "q_proj"), projected(ids, "k_proj"), strict=True)):
        for head in range(HEADS):
            for pair in range(D // 2):
                at = [2 * pair, 2 * pair + 1] if interleaved else [pair, pair + D // 2]
                a = q[:, :, head, at].square().sum(-1).sqrt()
                b = k[:, :, head * GROUPS // HEADS, at].square().sum(-1).sqrt()
                assert float(usage.q[layer, head, pair]) == pytest.approx(float(a.mean()), rel=1e-5)
                assert float(usage.k[layer, head, pair]) == pytest.approx(float(b.mean()), rel=1e-5)
                assert float(usage.both[layer, head, pair]) == pytest.approx(float((a * b).mean()), rel=1e-5)


def test_padding_and_decoded_tokens_are_not_counted():
    ids = text(6)[:1]
    plain, padded, twice = (PositionalHeads() for _ in range(3))
    lengths, in_padding = FrequencyUsage(), FrequencyUsage()
    read(ids, plain, lengths)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1]])
    whole = torch.cat([torch.full((1, 3), 7), ids], 1)
    read(whole, padded, in_padding, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
    for a, b in ((plain.own, padded.own), (plain.previous, padded.previous), (lengths.both, in_padding.both)):
        assert torch.allclose(a, b, rtol=1e-4)
    with torch.no_grad(), regard.apply(tiny(), twice, meter=False):
        tiny().generate(input_ids=ids, max_new_tokens=3, do_sample=False, pad_token_id=0)  # type: ignore[attr-defined]
    assert torch.allclose(twice.own, plain.own, rtol=1e-5)


def test_positional_heads_are_the_models_own_diagonals():
    ids, heads = text(), PositionalHeads()
    read(ids[:1], heads)
    read(ids[1:], heads)  # texts add up
    model = copy.deepcopy(tiny())
    model.set_attn_implementation("eager")
    with torch.no_grad():
        weights = model(input_ids=ids, output_attentions=True).attentions
    own = torch.stack([w.diagonal(0, 2, 3).mean((0, 2)) for w in weights])
    before = torch.stack([w.diagonal(-1, 2, 3).mean((0, 2)) for w in weights])
    assert torch.allclose(heads.own, own.double(), atol=1e-5)
    assert torch.allclose(heads.previous, before.double(), atol=1e-5)
    least = 0.3
    want = [(n, h) for n in range(LAYERS) for h in range(HEADS) if max(own[n, h], before[n, h]) > least]
    assert heads.found(least) == want
    assert 0 < len(want) < LAYERS * HEADS


@pytest.mark.parametrize("heads", [None, {1: [0, 3]}], ids=str)
def test_muted_pairs_are_rows_of_the_query_map_that_are_zero(heads):
    ids, other = text(), copy.deepcopy(tiny())
    with torch.no_grad():
        for layer in range(LAYERS):
            weight = other.get_parameter(f"model.layers.{layer}.self_attn.q_proj.weight").view(HEADS, D, -1)
            for head in range(HEADS) if heads is None else heads.get(layer, []):
                weight[head, [0, 2, 4, 6]] = 0.0  # pairs 0 and 2 of 4, across the two halves
        want = other(input_ids=ids).logits
    found = read(ids, MutePairs([0, 2], heads=heads))
    assert torch.allclose(found, want, atol=1e-5)
    assert not torch.allclose(found, tiny()(input_ids=ids).logits, atol=1e-2)


def test_interleaved_pairs_are_neighbours():
    q = torch.ones(1, 2, 3, 8)
    kept, _, _ = MutePairs([1], interleaved=True).inputs(None, q, q, q)  # type: ignore[arg-type]
    assert kept[0, 0, 0].tolist() == [1, 1, 0, 0, 1, 1, 1, 1]


def test_observers_leave_the_logits_as_they_are_to_rounding():
    ids = text()
    with torch.no_grad():
        want = tiny()(input_ids=ids).logits
    assert torch.allclose(read(ids, FrequencyUsage(), PositionalHeads()), want, atol=1e-5)


def test_mistakes_are_told():
    with pytest.raises(RegardError, match="FrequencyUsage has read nothing; run the model under regard.apply"):
        _ = FrequencyUsage().both
    with pytest.raises(RegardError, match="PositionalHeads has read nothing"):
        PositionalHeads().found()
    with pytest.raises(ValueError, match="from 0 to 3, since heads are 8 wide; got"):
        read(text(), MutePairs([4]))
    q = torch.ones(1, 2, 3, 5)
    with pytest.raises(RegardError, match="even width; got 5"):
        FrequencyUsage().inputs(None, q, q, q)  # type: ignore[arg-type]
