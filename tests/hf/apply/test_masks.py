"""What models allow, by transformers' own mask functions and by tensors, against the tensors that SDPA would get."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import masking_utils as hf

from regard.edits import Bias
from regard.errors import Unsupported
from regard.hf.allowed import AllowedPairs, allowed_pairs
from regard.hf.applied import apply
from regard.hf.translate import translate
from regard.hf.written import parts
from tests.hf.apply.families import build
from tests.hf.apply.models import Record, llama, prompt

B, N, M = 2, 7, 11
REAL = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1]], dtype=torch.bool)
LEAD = torch.tensor([3, 0])
BLOCKS = torch.tensor([[0, 0, 0, 0, 1, 1, -1, 2, 2, 2, -1]]).expand(B, -1)
PACKED = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]])
PLACES = torch.tensor([[0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0]])


def odd(batch, head, query, key):
    return (query - key) % 2 == batch % 2


FUNCTIONS = {
    "causal": (hf.causal_mask_function, "causal()"),
    "bidirectional": (hf.bidirectional_mask_function, "everything"),
    "sliding": (hf.sliding_window_causal_mask_function(4), "window(4)"),
    "sliding both ways": (hf.sliding_window_bidirectional_mask_function(3), "window(4, ahead=3)"),
    "chunked": (hf.chunked_causal_mask_function(4, LEAD), "(chunks(4) & causal())"),
    "chunked elsewhere": (hf.chunked_causal_mask_function(4, LEAD + 1), "predicate"),
    "union": (hf.or_masks(hf.sliding_window_overlay(2), hf.causal_mask_function), "|"),
    "blocks": (hf.or_masks(hf.causal_mask_function, hf.blockwise_overlay(BLOCKS)), "predicate"),
    "own": (hf.and_masks(hf.causal_mask_function, odd), "predicate"),
    "padding": (hf.and_masks(hf.causal_mask_function, hf.padding_mask_function(REAL)), "predicate"),
}


def asked(function, real: Tensor | None, **sizes: int) -> dict:
    given = {"batch_size": B, "q_length": N, "kv_length": M, "q_offset": M - N, "kv_offset": 0} | sizes
    return {**given, "mask_function": function, "attention_mask": real}


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_mask_functions(name: str, padded: bool) -> None:
    function, shown = FUNCTIONS[name]
    real = REAL if padded else None
    allowed = allowed_pairs(**asked(function, real))
    found = allowed.where(allowed.lead, allowed.lead)
    if padded:
        assert shown in repr(found)
    expected = hf.sdpa_mask(**asked(function, real), allow_is_causal_skip=False)
    if padded:  # queries that are padding see nothing here
        expected = expected & REAL[:, None, -N:, None]
    q, k = allowed.q_positions(allowed.lead, padded=True), allowed.k_positions(allowed.lead)
    assert torch.equal(found.dense(N, M, batch=B, q_positions=q, k_positions=k).expand_as(expected), expected)
    assert found.count(N, M, 4, batch=B, q_positions=q, k_positions=k) * B == expected.sum()


def test_packed_sequences() -> None:
    for inner, relative in ((hf.causal_mask_function, True), (hf.sliding_window_causal_mask_function(2), True),
                            (hf.chunked_causal_mask_function(2, torch.zeros(2, dtype=torch.long)), False)):  # fmt: skip
        remapped = hf.remap_positions_for_packed_sequence(inner, PLACES)
        function = hf.and_masks(remapped, hf.packed_sequence_mask_function(PACKED))
        found = translate(function, None, None, (M - 1, M - 1))
        assert ("predicate" in repr(found)) != relative
        expected = hf.sdpa_mask(**asked(function, None, q_length=M, q_offset=0), allow_is_causal_skip=False)
        assert torch.equal(found.dense(M, M, batch=B).expand_as(expected), expected)


def test_functions_that_are_not_elementwise_are_written_out() -> None:
    table = torch.rand(B, M, M, generator=torch.Generator().manual_seed(0)) < 0.6

    def looked_up(batch, head, query, key):
        return table[batch, query, key]

    sizes = asked(looked_up, REAL) | {"use_vmap": True}
    allowed = allowed_pairs(**sizes)
    q, k = allowed.q_positions(allowed.lead, padded=True), allowed.k_positions(allowed.lead)
    found = allowed.where(allowed.lead, allowed.lead).dense(N, M, batch=B, q_positions=q, k_positions=k)
    expected = table[:, None, M - N :] & REAL[:, None, None] & REAL[:, None, -N:, None]
    assert torch.equal(found, expected)


def test_code_that_wants_a_tensor_gets_the_models_own() -> None:
    for make, kind in ((hf.eager_mask, torch.float32), (hf.sdpa_mask, torch.bool)):
        allowed = allowed_pairs(**asked(hf.causal_mask_function, REAL), make=make)
        own = make(**asked(hf.causal_mask_function, REAL), allow_is_causal_skip=False)
        assert own.dtype == kind
        assert isinstance(allowed, AllowedPairs)
        assert allowed.shape == own.shape
        assert torch.equal(allowed[:, :, 2:], own[:, :, 2:])
        assert torch.equal(torch.cat([allowed, allowed], -1), torch.cat([own, own], -1))
        assert torch.equal(allowed.expand(B, 3, N, M), own.expand(B, 3, N, M))
        scores = torch.zeros(B, 1, N, M)
        assert torch.equal(scores + allowed, scores + own)
        assert torch.equal(allowed + scores, own + scores)


@torch.no_grad()
def test_a_tensor_from_the_user() -> None:
    model = llama()
    ids = prompt(2, 9)["input_ids"]
    pattern = torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(0)) < 0.5
    pattern = (pattern | torch.eye(9, dtype=torch.bool)).tril()
    additive = torch.where(pattern, 0.0, torch.finfo(torch.float32).min)
    biased = additive + torch.randn(2, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    for given in (additive, biased):
        expected = model(ids, attention_mask=given).logits
        with apply(model) as run:
            assert torch.allclose(model(ids, attention_mask=given).logits, expected, atol=1e-5)
        assert next(run.meter.select()).visible[0] == pattern.sum()
    with apply(model):
        assert torch.allclose(model(ids, attention_mask=pattern).logits, model(ids, attention_mask=additive).logits)


@torch.no_grad()
def test_a_tensor_from_the_user_while_decoding() -> None:
    model = llama()
    ids = prompt(2, 9)["input_ids"]
    pattern = (torch.rand(2, 1, 9, 9, generator=torch.Generator().manual_seed(2)) < 0.5) | torch.eye(9).bool()
    additive = torch.where(pattern.tril(), 0.0, torch.finfo(torch.float32).min)
    expected = model(ids, attention_mask=additive).logits
    with apply(model) as run:
        cache, outs = run.cache(), []
        for start, stop in ((0, 5), (5, 6), (6, 9)):
            mask = additive[:, :, start:stop, :stop]
            outs.append(model(ids[:, start:stop], attention_mask=mask, **{run.cache_name: cache}).logits)
    assert torch.allclose(torch.cat(outs, 1), expected, atol=1e-5)


def test_parts_of_a_tensor() -> None:
    least = torch.finfo(torch.float16).min
    table, edit = parts(torch.tensor([[[[0.0, least], [0.0, 0.0]]]], dtype=torch.float16))
    assert table.tolist() == [[[[True, False], [True, True]]]]
    assert edit is None
    table, edit = parts(torch.tensor([[[[1.0, -torch.inf]]]]))
    assert table.tolist() == [[[[True, False]]]]
    assert isinstance(edit, Bias)
    assert edit.values.tolist() == [[[[1.0, 0.0]]]]
    assert parts(torch.zeros(1, 1, 2, 2)) == (None, None)
    with pytest.raises(Unsupported, match=r"An attention mask of torch.int64 can't be served"):
        parts(torch.zeros(1, 1, 2, 2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("family", "shown"),
    [("llama", "causal()"), ("mistral", "window(5)"), ("llama4_text", "(chunks(5) & causal())"), ("bert", "everything"),
     ("modernbert", "everything"), ("vit", "everything")],
)  # fmt: skip
@torch.no_grad()
def test_interventions_are_told_what_the_model_allows(family: str, shown: str) -> None:
    from tests.hf.apply.families import tiny

    case, record = tiny(family), Record()
    with apply(case.model, record):
        case.model(**case.inputs)
    assert repr(record.calls[0]["site"].base) == shown


@torch.no_grad()
def test_an_encoder_padded_on_the_left() -> None:
    model, record = build("bart"), Record()
    inputs = prompt(2, 10, (4,)) | {"decoder_input_ids": prompt(2, 5, seed=1)["input_ids"]}
    expected = model(**inputs).logits
    with apply(model, record):
        assert torch.allclose(model(**inputs).logits, expected, atol=1e-5)
    cross = [call["site"] for call in record.calls if call["site"].kind == "cross"]
    assert len(cross) == 2
    assert {repr(site.base) for site in cross} == {"everything"}
    assert cross[0].k_positions.tolist() == [[-1] * 4 + list(range(6)), list(range(10))]


@torch.no_grad()
def test_a_packed_batch_is_served() -> None:
    model = build("mistral")
    ids = prompt(1, 12)["input_ids"]
    place = torch.tensor([[0, 1, 2, 3, 4, 5, 6, 0, 1, 2, 3, 4]])
    expected = model(ids, position_ids=place, use_cache=False).logits
    alone = model(ids[:, 7:], use_cache=False).logits
    with apply(model) as run:
        found = model(ids, position_ids=place, use_cache=False).logits
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(found[:, 7:], alone, atol=1e-5)
    assert run.meter.engines() == {"sdpa": 2}
