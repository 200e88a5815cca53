"""What apply changes, puts back, and refuses."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import nn

from regard.errors import EngineRefused, RegardError, Unsupported
from regard.hf.applied import apply, check
from regard.hf.intervention import Intervention
from regard.hf.select import Sites
from regard.masks import causal, window
from tests.hf.apply.families import build
from tests.hf.apply.models import llama, prompt


class Window4(Intervention):
    def where(self, site, q, k):
        return causal() & window(4)


def state(model: nn.Module) -> list:
    """Everything that apply touches, and what it must not touch."""
    found: list = []
    for name, module in model.named_modules():
        hooks = (module._forward_pre_hooks, module._forward_hooks, module._forward_pre_hooks_with_kwargs)
        found.append((name, [dict(h) for h in hooks], sorted(vars(module))))
        config = getattr(module, "config", None)
        if config is not None:
            found.append(copy.deepcopy(vars(config)))
    return found


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@torch.no_grad()
def test_the_model_is_as_it_was(attention: str) -> None:
    model = llama(attention=attention)
    inputs = prompt()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    logits, before = model(**inputs).logits, state(model)
    with apply(model, Window4()):
        assert model.config._attn_implementation == "regard"
        assert not torch.equal(model(**inputs).logits, logits)
        model.generate(**inputs, max_new_tokens=3)
    assert state(model) == before
    assert model.config._attn_implementation == attention
    assert torch.equal(model(**inputs).logits, logits)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())


@torch.no_grad()
def test_the_model_is_as_it_was_after_an_error() -> None:
    model = llama()
    inputs = prompt()

    class Fails(Intervention):
        def where(self, site, q, k):
            if site.index == 1:
                raise KeyError("mine")
            return None

    logits, before = model(**inputs).logits, state(model)
    with pytest.raises(KeyError, match="mine"), apply(model, Fails()):
        model(**inputs)
    assert state(model) == before
    assert torch.equal(model(**inputs).logits, logits)
    with apply(model):  # and it can be used again
        assert torch.allclose(model(**inputs).logits, logits, atol=1e-5)


@torch.no_grad()
def test_an_error_inside_the_block_leaves_the_run_working() -> None:
    model, inputs = llama(), prompt()
    with apply(model, Window4()) as run:
        expected = model(**inputs).logits
        for wrong in ({"input_ids": torch.full((1, 3), 10**6)}, {**inputs, "attention_mask": torch.ones(2, 3, 1, 12)}):
            with pytest.raises((IndexError, RegardError)):
                model(**wrong)
        assert torch.equal(model(**inputs).logits, expected)
        assert run.meter.kv_bytes > 0


@torch.no_grad()
def test_dataclasses_are_interventions_too() -> None:
    @dataclass
    class Narrow(Intervention):
        size: int = 4

        def where(self, site, q, k):
            return window(self.size)

    model, inputs = llama(), prompt()
    with apply(model, Window4()):
        expected = model(**inputs).logits
    with apply(model, Narrow(4), Narrow(9)):
        assert torch.allclose(model(**inputs).logits, expected, atol=1e-5)


def test_every_sub_config_gets_its_own_implementation_back() -> None:
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    text = {**small, "vocab_size": 97, "max_position_embeddings": 16}
    config = CLIPConfig(text_config=text, vision_config={**small, "image_size": 16, "patch_size": 4})
    model = CLIPModel._from_config(config, attn_implementation="eager").eval()
    model.config.text_config._attn_implementation = "sdpa"
    with apply(model) as run:
        assert len(run.sites) == 2
        used = (model.config, model.config.text_config, model.config.vision_config)
        assert [c._attn_implementation for c in used] == ["regard"] * 3
    assert model.config._attn_implementation == "eager"
    assert model.config.text_config._attn_implementation == "sdpa"
    assert model.config.vision_config._attn_implementation == "eager"


def test_one_apply_at_a_time() -> None:
    model = llama()
    with apply(model):
        with pytest.raises(
            Unsupported, match=r"this llama is already under regard.apply; pass all interventions in one"
        ):
            apply(model, Window4())
        assert check(model) == ["this llama is already under regard.apply; pass all interventions in one call"]
    run = apply(model)
    with run, pytest.raises(Unsupported, match=r"already under regard.apply"):
        run.__enter__()
    assert model.config._attn_implementation == "eager"
    assert check(model) == []


def test_an_intervention_that_never_acts_is_an_error() -> None:
    model = llama()

    class OnlyDecode(Window4):
        sites = Sites(phase="decode")

    with (
        pytest.raises(
            RegardError, match="OnlyDecode never acted: no call of the model's attention was among its sites"
        ),
        apply(model, OnlyDecode()),
        torch.no_grad(),
    ):
        model(**prompt())
    with pytest.raises(RegardError, match="Window4 never acted"), apply(model, Window4()):
        pass
    with pytest.raises(ZeroDivisionError), apply(model, Window4()):
        raise ZeroDivisionError


def test_sites_that_do_not_exist_are_refused_before_running() -> None:
    class Layer7(Window4):
        sites = Sites(layers=[7])

    with pytest.raises(Unsupported, match=r"Layer7: Sites\(layers=\[7\].* selects none of the layers 0 to 1"):
        apply(llama(), Layer7())


def test_a_module_that_passes_the_interface_by_is_an_error() -> None:
    model = llama()
    attention = model.model.layers[1].self_attn
    attention.forward = lambda hidden_states, **kwargs: (torch.zeros_like(hidden_states), None)
    with (
        pytest.raises(
            Unsupported, match=r"model.layers.1.self_attn ran without calling the attention interface: Window4"
        ),
        apply(model, Window4()),
        torch.no_grad(),
    ):
        model(**prompt())


def test_what_is_not_a_model_or_an_intervention() -> None:
    with pytest.raises(Unsupported, match="apply takes a transformers model; got str"):
        apply("llama")
    with pytest.raises(Unsupported, match="apply takes interventions after the model; got type"):
        apply(llama(), Window4)
    with pytest.raises(Unsupported, match="Linear does not use the attention interface"):
        apply(nn.Linear(2, 2))
    one = Window4()
    with pytest.raises(Unsupported, match="an intervention is given twice"):
        apply(llama(), one, one)


def test_an_interventions_own_reasons_are_given() -> None:
    class Refuses(Window4):
        def check(self, model):
            return ["needs more heads", "and less text."]

    with pytest.raises(Unsupported, match=r"Refuses: needs more heads; Refuses: and less text\.$"):
        apply(llama(), Refuses())


def test_dropout_in_training_is_refused() -> None:
    model = llama(attention_dropout=0.1).train()
    with pytest.raises(Unsupported, match=r"Attention dropout is not served. Call model.eval"), apply(model):
        model(**prompt())


def test_gradients_are_those_of_the_untouched_model() -> None:
    model = llama().train()
    inputs = prompt(padding=(4,))
    real = inputs["attention_mask"].bool()
    model(**inputs).logits[real].square().mean().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    for engine in ("auto", "reference", "rows"):
        model.zero_grad()
        with apply(model, engine=engine):
            model(**inputs).logits[real].square().mean().backward()
        for name, p in model.named_parameters():
            assert torch.allclose(p.grad, expected[name], rtol=1e-4, atol=1e-5 * float(expected[name].abs().max()))


def test_models_that_share_a_config_are_told_apart() -> None:
    from transformers import LlamaForCausalLM

    model = llama()
    other = LlamaForCausalLM(model.config).eval()
    assert other.config is model.config
    with apply(model), pytest.raises(Unsupported, match="it shares its config with that model, or is a copy"):
        other(**prompt())


@torch.no_grad()
def test_attention_weights_are_given_where_the_model_is_asked_for_them() -> None:
    model = llama()
    inputs = prompt(padding=(4,))
    real = inputs["attention_mask"].bool()
    expected = model(**inputs, output_attentions=True).attentions
    with apply(model) as run:
        found = model(**inputs, output_attentions=True).attentions
        assert model(**inputs).attentions is None
    assert len(found) == 2
    for a, b in zip(found, expected, strict=True):
        assert float((a - b).transpose(1, 2)[real].abs().max()) <= 1e-6
        assert not a[0, :, :4].any()  # padding looks at nothing
    assert run.meter.engines()["rows"] == 2


@torch.no_grad()
def test_the_engine_can_be_named() -> None:
    model = llama()
    inputs = prompt()
    expected = model(**inputs).logits
    for engine in ("reference", "rows", "tiles", "sdpa"):
        with apply(model, engine=engine) as run:
            found = model(**inputs).logits
        assert torch.allclose(found, expected, atol=1e-5)
        assert set(run.meter.engines()) == {engine}
    with pytest.raises(ValueError, match=r"Unknown engine 'tile'.*Did you mean 'tiles'"), apply(model, engine="tile"):
        model(**inputs)

    class Reads(Intervention):
        def weights(self, site, rows):
            return None

    with pytest.raises(EngineRefused, match="Engine 'tiles' can't run this"), apply(model, Reads(), engine="tiles"):
        model(**inputs)


@torch.no_grad()
def test_an_untouched_model_runs_on_the_fused_kernel() -> None:
    model = llama(attention="sdpa")
    with apply(model) as run:
        model.generate(**prompt(), max_new_tokens=3, min_new_tokens=3)
    assert run.meter.engines() == {"sdpa": 6}
    with apply(model, meter=False) as run:
        model(**prompt())
    assert run.meter.records == {}


def test_sites_are_known_before_running() -> None:
    run = apply(build("bart"))
    names = [site.name for site in run.sites]
    assert names == [
        "model.encoder.layers.0.self_attn", "model.encoder.layers.1.self_attn",
        "model.decoder.layers.0.self_attn", "model.decoder.layers.0.encoder_attn",
        "model.decoder.layers.1.self_attn", "model.decoder.layers.1.encoder_attn",
    ]  # fmt: skip
    assert [site.index for site in run.sites] == list(range(6))
    assert [site.layer for site in run.sites] == [0, 1, 0, 0, 1, 1]
    assert [site.kind for site in run.sites] == ["self", "self", "self", "cross", "self", "cross"]
    assert {(site.heads, site.groups) for site in run.sites} == {(4, 4)}
    site = apply(llama()).sites[0]
    assert (site.heads, site.groups, site.width) == (4, 2, 8)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": []}, "Sites.layers is empty: no site would be chosen"),
        ({"layers": [-1]}, r"Sites.layers must be numbers from 0 up; got \[-1\]"),
        ({"heads": {0: []}}, r"Sites.heads\[0\] is empty"),
        ({"phase": "train"}, "Sites.phase must be one of prefill, decode, or None; got 'train'"),
        ({"kind": "both"}, "Sites.kind must be one of self, cross, or None; got 'both'"),
    ],
)
def test_wrong_sites(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sites(**settings)
