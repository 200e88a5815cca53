"""A pretrained model's attention layer, lifted: its output is the model's own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.errors import RegardError, Unsupported
from regard.hf import load
from regard.layers import Attention
from tests.hf.apply.families import VOCABULARY, build

ROTARY = 2e-5  # transformers computes the angles' cosines in float32
LONG = {"original_max_position_embeddings": 16}
DECODERS = [
    ("llama", {}),
    ("llama", {"attention_bias": True, "num_key_value_heads": 1}),
    ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 4.0}}),
    ("llama", {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, **LONG}}),
    ("llama", {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, "factor": 8.0, "low_freq_factor": 1.0,
                                   "high_freq_factor": 4.0, **LONG}}),
    ("mistral", {"sliding_window": 5}),
    ("qwen2", {}),
    ("granite", {"attention_multiplier": 0.3}),
]  # fmt: skip
ENCODERS = ["bert", "roberta", "electra"]


@contextmanager
def watched(module: nn.Module) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """What goes into a module and what comes out."""
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(_: nn.Module, given: tuple, named: dict[str, Any], out: Any) -> None:
        x = given[0] if given else named["hidden_states"]
        seen.append((x.detach(), (out[0] if isinstance(out, tuple) else out).detach()))

    hook = module.register_forward_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def attentions(model: nn.Module, parts: tuple[str, ...]) -> list[nn.Module]:
    return [module for module in model.modules() if all(hasattr(module, part) for part in parts)]


@pytest.mark.parametrize(("family", "changes"), DECODERS, ids=[f"{f}-{list(c)}" for f, c in DECODERS])
def test_a_llama_family_layer(family: str, changes: dict[str, Any]) -> None:
    model = build(family, **changes).double().eval()
    ids = torch.randint(3, VOCABULARY, (2, 14), generator=torch.Generator().manual_seed(0))
    for number, module in enumerate(attentions(model, ("q_proj", "o_proj"))):
        with watched(module) as seen, torch.no_grad():
            model(ids)
        ((x, want),) = seen
        lifted = regard.from_hf(model, number)
        assert float((lifted(x, causal=True) - want).abs().max()) < ROTARY
        state, outs = lifted.init_state(2), []
        for n in range(14):
            out, state = lifted.step(state, x[:, n : n + 1])
            outs.append(out)
        assert float((torch.cat(outs, 1) - want).abs().max()) < ROTARY


@pytest.mark.parametrize("family", ENCODERS)
def test_a_bert_family_layer(family: str) -> None:
    model = build(family).double().eval()
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))
    real = torch.ones(2, 9, dtype=torch.bool)
    real[1, 6:] = False
    for number, module in enumerate(attentions(model, ("query", "value"))):
        name = next(name for name, other in model.named_modules() if other is module)
        dense = model.get_submodule(name.rpartition(".")[0]).output.dense
        with watched(module) as seen, torch.no_grad():
            model(ids, attention_mask=real.long())
        ((x, heads),) = seen
        got = regard.from_hf(model, number)(x, padding=real)
        assert float((got - dense(heads))[real].abs().max()) < 1e-9


@pytest.mark.checkpoint
@pytest.mark.parametrize(("name", "parts"), [("smollm2-135m", ("q_proj", "o_proj"))])
def test_a_real_model_s_layer(name: str, parts: tuple[str, ...]) -> None:
    model = load(name).model.eval()
    ids = torch.arange(100, 140)[None]
    module = attentions(model, parts)[7]
    with watched(module) as seen, torch.no_grad():
        model(ids)
    ((x, want),) = seen
    with torch.no_grad():
        got = regard.from_hf(model, 7)(x, causal=True)
    assert float((got - want).abs().max()) < 1e-4 * float(want.abs().max())


def test_a_lifted_layer_goes_on_with_other_slots() -> None:
    layer = regard.from_hf(build("llama", num_key_value_heads=4).double(), 1)
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    want = layer(x, causal=True)
    # All heads active, gates at one: the layer itself. Identity transforms: the layer itself.
    routed = layer.with_slots(merge="moh:router=query_norm,shared=2,active=2")
    assert torch.allclose(routed(x, causal=True), want, atol=1e-12)
    knocking = layer.with_slots(projection="knocking_heads:kv_heads=4")
    assert torch.allclose(knocking(x, causal=True), want, atol=1e-12)
    few = layer.with_slots(merge="moh:router=query_norm,shared=2,active=1")
    assert not torch.allclose(few(x, causal=True), want, atol=1e-3)
    with pytest.raises(RegardError, match="There is no slot heads; slots are projection, position, mixer, merge"):
        layer.with_slots(heads="moh")


def test_sqa_starts_from_a_lifted_layer() -> None:
    from regard.mechanisms.heads import SQA

    layer = regard.from_hf(build("llama").double(), 0)
    with torch.no_grad():  # heads that are equal in pairs are averaged without loss
        q = layer.projection.q.weight.unflatten(0, (2, 2, 8))
        q[:, 1] = q[:, 0]
    projection, merge = SQA.from_projection(layer.projection, layer.merge.out.weight, q_heads=2)
    sqa = Attention(32, 4, projection=projection, position=layer.position).double()
    with torch.no_grad():
        sqa.merge.out.weight.copy_(merge)
    x = torch.randn(2, 9, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(sqa(x, causal=True), layer(x, causal=True), atol=1e-12)


REFUSED = [
    ("qwen3", {}, "has q_norm, k_norm, for which there is no slot"),
    ("gpt2", {}, "has no attention layer of the Llama or BERT family"),
    ("llama", {"head_dim": 4}, "4 heads of width 4, which do not make up its width of 32"),
]


@pytest.mark.parametrize(("family", "changes", "text"), REFUSED, ids=[text for *_, text in REFUSED])
def test_what_can_not_be_lifted_says_why(family: str, changes: dict[str, Any], text: str) -> None:
    with pytest.raises(Unsupported, match=text):
        regard.from_hf(build(family, **changes))


def test_a_layer_that_is_not_there() -> None:
    with pytest.raises(Unsupported, match="has 2 such layers; got layer=2"):
        regard.from_hf(build("llama"), 2)
