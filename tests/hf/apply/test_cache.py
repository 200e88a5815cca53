"""Decoding with a cache that lets tokens go equals reading everything under the mask that says the same."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from regard.caches import Dense, Window
from regard.errors import RegardError, Unsupported
from regard.hf.applied import apply, check
from regard.hf.intervention import Intervention
from regard.hf.run import Run
from regard.hf.select import Sites
from regard.masks import Mask, sinks, window
from tests.hf.apply.families import build
from tests.hf.apply.models import llama, prompt


class Masked(Intervention):
    """A window with sinks, over everything there is."""

    def __init__(self, size: int, first: int = 0, sites: Sites | None = None) -> None:
        self.size, self.first, self.sites = size, first, sites or Sites()
        self.mask: Mask = window(size) | sinks(first)

    def where(self, site, q, k):
        return self.mask


class Evicting(Masked):
    """The same, with the other tokens let go."""

    def cache(self, site):
        return Window(self.size, self.first)


class Keeping(Intervention):
    def cache(self, site):
        return Dense()


def fed(run: Run, inputs: dict[str, Tensor], chunks: list[int], cache=None) -> Tensor:
    """Logits of a text given to the model in chunks, with padding known only as far as it came."""
    cache = run.cache() if cache is None else cache
    mask = inputs["attention_mask"]
    place = (mask.cumsum(-1) - 1).clamp(min=0)
    outs, start = [], int(cache.get_seq_length())
    for n in chunks:
        ids = inputs["input_ids"][:, start : start + n]
        known = {"attention_mask": mask[:, : start + n], "position_ids": place[:, start : start + n]}
        outs.append(run.model(ids, **known, **{run.cache_name: cache}).logits)
        start += n
    return torch.cat(outs, 1)


def whole(model: nn.Module, inputs: dict[str, Tensor], *interventions: Intervention) -> Tensor:
    place = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with apply(model, *interventions):
        return model(**inputs, position_ids=place).logits


def same(found: Tensor, expected: Tensor, inputs: dict[str, Tensor]) -> bool:
    real = inputs["attention_mask"].bool()
    return float((found - expected)[real].abs().max()) <= 2e-5 * max(1.0, float(expected.abs().max()))


CHUNKS = {
    "single": [1] * 30,
    "prefill": [20, *[1] * 10],
    "short": [3, *[1] * 27],
    "chunked": [6, 1, 1, 9, 1, 2, 10],
    "exact": [6, *[1] * 24],
}


@pytest.mark.parametrize("chunks", CHUNKS.values(), ids=CHUNKS)
@pytest.mark.parametrize(("size", "first"), [(6, 0), (6, 2), (1, 3), (40, 2)])
@pytest.mark.parametrize("family", ["llama", "gemma2", "gpt_oss"])
@torch.no_grad()
def test_decoding_equals_the_masked_prefill(family: str, size: int, first: int, chunks: list[int]) -> None:
    model, inputs = build(family), prompt(3, 30, (4, 13))
    expected = whole(model, inputs, Masked(size, first))
    with apply(model, Evicting(size, first)) as run:
        cache = run.cache()
        assert same(fed(run, inputs, chunks, cache), expected, inputs)
        assert cache.get_seq_length() == 30
    full = sum(chunks) > size
    assert same(whole(model, inputs), expected, inputs) != (full and (size, first) != (40, 2))


@torch.no_grad()
def test_keeping_everything_changes_nothing() -> None:
    for family in ("llama", "gemma3_text", "gpt2", "exaone4"):
        model, inputs = build(family), prompt(3, 20, (4, 9))
        expected = model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False)
        with apply(model, Keeping()):
            assert torch.equal(model.generate(**inputs, max_new_tokens=8, min_new_tokens=8, do_sample=False), expected)


@pytest.mark.parametrize("beams", [1, 3])
@torch.no_grad()
def test_generate_with_beams(beams: int) -> None:
    model, inputs = llama(), prompt(3, 14, (4, 9))
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "num_beams": beams}
    with apply(model, Masked(6, 2)):
        expected = model.generate(**inputs, **settings)
        assert torch.equal(model.generate(**inputs, **settings, use_cache=False), expected)
    with apply(model, Evicting(6, 2)) as run:
        assert torch.equal(model.generate(**inputs, **settings), expected)
    assert not torch.equal(model.generate(**inputs, **settings), expected)
    slots = 2 * (6 + 2) * 2 * 8 * 4 + (6 + 2) * 8  # keys and values, and the number of each slot's token
    assert run.meter.kv_bytes == 2 * 3 * beams * slots


@torch.no_grad()
def test_several_turns_with_one_cache() -> None:
    model, inputs = llama(), prompt(2, 30, (4,))
    expected = whole(model, inputs, Masked(6, 2))
    with apply(model, Evicting(6, 2)) as run:
        cache = run.cache()
        first = fed(run, inputs, [11, 1, 1], cache)
        second = fed(run, inputs, [9, 1, 7], cache)
        assert same(torch.cat([first, second], 1), expected, inputs)
    more = torch.full((2, 1), 7)
    longer = {"input_ids": torch.cat([inputs["input_ids"], more], 1)}
    longer["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(more)], 1)
    expected = whole(model, longer, Masked(6, 2))[:, -1:]
    with apply(model, Masked(6, 2)) as later:  # the cache goes on as it is, in a run that has none of its own
        assert float((fed(later, longer, [1], cache) - expected).abs().max()) <= 2e-5 * float(expected.abs().max())
    assert cache.get_seq_length() == 31


@torch.no_grad()
def test_only_some_layers() -> None:
    model, inputs = build("gemma2"), prompt(2, 20, (4,))
    assert model.config.layer_types == ["sliding_attention", "full_attention"]
    for layer in (0, 1):
        sites = Sites(layers=[layer])
        expected = whole(model, inputs, Masked(4, 1, sites))
        with apply(model, Evicting(4, 1, sites)) as run:
            assert same(fed(run, inputs, [7, 1, 1, 4, 1, 6]), expected, inputs)


@torch.no_grad()
def test_the_decoder_of_an_encoder_decoder() -> None:
    model = build("bart")
    inputs = prompt(2, 12)
    sites = Sites(within="decoder", kind="self")

    def logits() -> Tensor:
        settings = {"max_new_tokens": 14, "min_new_tokens": 14, "do_sample": False}
        found = model.generate(**inputs, **settings, return_dict_in_generate=True, output_logits=True)
        return torch.stack(found.logits)

    with apply(model, Masked(4, 1, sites)):
        expected = logits()
    with apply(model, Evicting(4, 1, sites)) as run:
        close = 1e-5 * float(expected.abs().max())
        assert float((logits() - expected).abs().max()) <= close
    assert float((logits() - expected).abs().max()) > 100 * close
    own = [r for r in run.meter.select(phase="decode") if "decoder" in r.name and "self_attn" in r.name]
    assert [r.density < 1 for r in own] == [True, True]


@torch.no_grad()
def test_ways_of_generating_that_cannot_be_served() -> None:
    model, inputs = llama(), prompt(1, 8)
    with apply(model, Evicting(6)) as run:
        with pytest.raises(Unsupported, match=r"so cache_implementation='static' can't be used. Leave it unset"):
            model.generate(**inputs, max_new_tokens=2, cache_implementation="static")
        with pytest.raises(Unsupported, match="Assisted decoding takes tokens back from the cache"):
            model.generate(**inputs, max_new_tokens=2, assistant_model=model)
        with pytest.raises(Unsupported, match="Generate without assistant_model and prompt_lookup_num_tokens"):
            model.generate(**inputs, max_new_tokens=2, prompt_lookup_num_tokens=2)
        from transformers import StaticCache

        with pytest.raises(Unsupported, match="Evicting keeps its own keys and values, which needs a DynamicCache"):
            model(**inputs, **{run.cache_name: StaticCache(config=model.config, max_cache_len=16)})
        cache = run.cache()
        model(**inputs, **{run.cache_name: cache})
        assert not cache.is_croppable
        with pytest.raises(RegardError, match="can't be cut back from 8 tokens to 7"):
            cache.crop(-1)
    assert "generate" not in vars(model)


@torch.no_grad()
def test_without_a_cache_of_its_own_transformers_caches_work() -> None:
    model, inputs = llama(), prompt(2, 8, (3,))
    settings = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    expected = model.generate(**inputs, **settings)
    one = {name: tensor[1:] for name, tensor in inputs.items()}
    with apply(model):
        assert torch.equal(model.generate(**inputs, **settings, cache_implementation="static"), expected)
        found = model.generate(**one, **settings, prompt_lookup_num_tokens=2)
        assert torch.equal(found, expected[1:])


@torch.no_grad()
def test_a_cache_must_be_seen_from_its_first_token() -> None:
    model, inputs = llama(), prompt(1, 8)
    with apply(model) as run:
        cache = run.cache()
        model(**inputs, **{run.cache_name: cache})
    with (
        pytest.raises(
            Unsupported, match="Evicting must see a cache from its first token on, but layer 0 already holds 8"
        ),
        apply(model, Evicting(6)) as run,
    ):
        model(inputs["input_ids"], **{run.cache_name: cache})


def test_two_caches_at_one_site_are_refused() -> None:
    message = "Evicting and Keeping both keep their own keys and values at model.layers.0.self_attn; apply one of them"
    with pytest.raises(Unsupported, match=message):
        apply(llama(), Evicting(6), Keeping())
    first, second = Evicting(6, sites=Sites(layers=[0])), Evicting(6, sites=Sites(layers=[1]))
    assert check(llama(), first, second) == []


def test_models_that_share_keys_between_layers_are_refused() -> None:
    model = build("gemma3n_text")
    message = "gemma3n_text shares keys and values between layers, so Evicting can't keep its own"
    with pytest.raises(Unsupported, match=message):
        apply(model, Evicting(4))


@torch.no_grad()
def test_a_position_bias_of_the_model_is_refused_with_eviction() -> None:
    model = build("t5")
    sites = Sites(within="decoder", kind="self")
    with pytest.raises(Unsupported, match="the model adds a bias by distance"), apply(model, Evicting(4, 1, sites)):
        model.generate(**prompt(2, 12), max_new_tokens=8, min_new_tokens=8)


@torch.no_grad()
def test_each_layer_is_asked_once_for_every_cache() -> None:
    asked = []

    class Asks(Masked):
        def cache(self, site):
            asked.append((site.layer, site.heads, site.groups, site.width))
            return Window(6) if site.layer else None

    with apply(llama(), Asks(6)) as run:
        for _ in range(2):
            fed(run, prompt(1, 12), [8, 1, 1, 1])
    assert asked == [(0, 4, 2, 8), (1, 4, 2, 8)] * 2
