"""The meter against pairs counted one by one."""

from __future__ import annotations

import math

import pytest
import torch

from regard.caches import Window
from regard.hf.applied import apply
from regard.hf.intervention import Intervention
from regard.hf.select import Sites
from regard.masks import keys, per_head, sinks, window
from tests.hf.apply.families import build
from tests.hf.apply.models import llama, prompt

D = 8


def count(first: int, length: int, lead: int, see) -> int:
    """Pairs of queries first .. first + length - 1 with tokens up to them, of a row with so much padding."""
    pairs = [(i - lead, j - lead) for i in range(first, first + length) for j in range(i + 1)]
    return sum(1 for i, j in pairs if j >= 0 and see(i, j))


class Some(Intervention):
    def __init__(self, mask) -> None:
        self.mask = mask

    def where(self, site, q, k):
        site.count_selection(10.0 * site.N)
        return self.mask


@pytest.mark.parametrize("length", [12, 300])
@torch.no_grad()
def test_pairs_flops_and_density(length: int) -> None:
    model = llama(max_position_embeddings=512)
    lead = [4, 0, 0]
    inputs = prompt(3, length, (4,))
    with apply(model, Some(window(5) | sinks(2))) as run:
        model.generate(**inputs, max_new_tokens=4, min_new_tokens=4, do_sample=False)

    def see(i, j):
        return i - j < 5 or j < 2

    for phase, first, n in (("prefill", 0, length), ("decode", length, 3)):
        visible = sum(count(first, n, p, see) for p in lead)
        allowed = sum(count(first, n, p, lambda i, j: True) for p in lead)
        records = list(run.meter.select(phase=phase))
        assert [r.layer for r in records] == [0, 1]
        for record in records:
            assert record.visible.tolist() == [visible] * 4
            assert record.allowed.tolist() == [allowed] * 4
            assert record.score_flops == 2 * visible * 4 * (D + D)
            assert record.selection_flops == 10 * n
            assert record.calls == (1 if phase == "prefill" else 3)
            assert record.density == visible / allowed
        assert run.meter.density(phase=phase) == pytest.approx(visible / allowed)
        assert run.meter.score_flops(phase=phase) == 2 * 2 * visible * 4 * (D + D)
    assert run.meter.selection_flops() == 2 * 10 * (length + 3)


@torch.no_grad()
def test_heads_are_counted_on_their_own() -> None:
    model, length = llama(max_position_embeddings=512), 300
    masks = [window(3), window(40), sinks(1), window(300)]

    class ByHead(Some):
        sites = Sites(layers=[0])

    with apply(model, ByHead(per_head(masks))) as run:
        model(**prompt(2, length, (0, 7)))
    expected = [
        sum(count(0, length, p, see) for p in (0, 7))
        for see in (lambda i, j: i - j < 3, lambda i, j: i - j < 40, lambda i, j: j < 1, lambda i, j: True)
    ]
    first, second = run.meter.select()
    assert first.visible.tolist() == expected
    assert second.visible.tolist() == [expected[3]] * 4
    by_head = run.meter.density_by_head()
    assert by_head["model.layers.0.self_attn"].tolist() == [n / expected[3] for n in expected]
    assert by_head["model.layers.1.self_attn"].tolist() == [1.0] * 4


@torch.no_grad()
def test_what_the_model_itself_leaves_out_is_not_allowed() -> None:
    with apply(build("mistral")) as run:
        run.model.generate(**prompt(), max_new_tokens=4, min_new_tokens=4, do_sample=False)
    prefill, decode = (next(run.meter.select(phase=phase)) for phase in ("prefill", "decode"))
    assert prefill.allowed[0] == 2 * count(0, 12, 0, lambda i, j: i - j < 5)
    assert decode.allowed[0] == 2 * 3 * 5
    assert run.meter.density() == 1.0


@torch.no_grad()
def test_evicted_tokens_count_as_not_looked_at() -> None:
    class Evicts(Intervention):
        def where(self, site, q, k):
            return window(5)

        def cache(self, site):
            return Window(5)

    with apply(llama(), Evicts()) as run:
        run.model.generate(**prompt(2, 12, (4,)), max_new_tokens=6, min_new_tokens=6, do_sample=False)
    record = next(run.meter.select(phase="decode"))
    assert record.visible[0] == 2 * 5 * 5
    assert record.allowed[0] == sum(range(9, 14)) + sum(range(13, 18))


@torch.no_grad()
def test_chosen_keys_are_counted() -> None:
    index = torch.stack([torch.arange(12) // 2, torch.arange(12)], -1)[None, None].expand(2, 4, -1, -1)

    class Chosen(Intervention):
        def where(self, site, q, k):
            return keys(index)

    with apply(llama(), Chosen()) as run:
        run.model(**prompt())
    assert next(run.meter.select()).visible.tolist() == [2 * (12 + 11)] * 4  # token 0 is its own half


@torch.no_grad()
def test_bytes_of_caches() -> None:
    model = llama()
    with apply(model) as run:
        cache = run.cache()
        inputs = prompt(2, 12)
        model(**inputs, **{run.cache_name: cache})
        one_token = 2 * 2 * 2 * 2 * D * 4  # layers, keys and values, rows, groups, width, bytes
        assert run.meter.kv_bytes == 12 * one_token
        model(inputs["input_ids"][:, :3], **{run.cache_name: cache})
        assert run.meter.kv_bytes == 15 * one_token
        model(inputs["input_ids"][:, :3])
        assert run.meter.kv_bytes == 3 * one_token
        assert run.meter.kv_bytes_peak == 15 * one_token
        model(inputs["input_ids"][:, :3], use_cache=False)
        assert run.meter.kv_bytes == 0


@torch.no_grad()
def test_reset_and_nothing() -> None:
    model = llama()
    with apply(model) as run:
        assert math.isnan(run.meter.density())
        model(**prompt())
        run.meter.reset()
        assert run.meter.records == {}
        assert run.meter.kv_bytes_peak == 0
        model(**prompt())
        assert next(run.meter.select()).calls == 1
