"""The setting that changes nothing changes nothing, and every named limit is what it is said to be."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from regard.hf.applied import apply
from regard.methods.registry import create, methods
from tests.hf.apply.models import Record
from tests.methods import plain
from tests.methods.formulas import moba
from tests.methods.models import FAMILIES, UNROTATED, gap, logits, model_of, prompt

LIMITS = [(name, number) for name, kind in methods().items() for number in range(len(kind.spec.limits))]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", methods())
@torch.no_grad()
def test_identity(name: str, family: str) -> None:
    model, inputs = model_of(family), prompt(3, 70, (9, 31))
    method = methods()[name].identity()
    if name == "streaming_llm" and family in UNROTATED:
        method = dataclasses.replace(method, in_cache_positions=False)  # type: ignore[type-var]
    settings = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False}
    expected, greedy = model(**inputs).logits, model.generate(**inputs, **settings)
    with apply(model, method) as run:
        found, found_greedy = model(**inputs).logits, model.generate(**inputs, **settings)
    # Float32 noise of two layers: eager's own distance from float64 is of the same order.
    assert gap(found, expected, inputs) <= 1e-5
    assert torch.equal(found_greedy, greedy)
    assert run.meter.density() == 1.0
    assert torch.equal(model(**inputs).logits, expected)


def test_every_method_names_its_identity() -> None:
    for name, kind in methods().items():
        assert (name == "dense") == (kind.identity().settings == kind().settings), name
        assert "dense" in [limit.oracle for limit in kind.spec.limits], name


@pytest.mark.parametrize(("name", "number"), LIMITS)
@torch.no_grad()
def test_limits(name: str, number: int) -> None:
    limit = methods()[name].spec.limits[number]
    settings, small = dict(limit.settings), {"window": 9} if limit.oracle == "sliding_window" else {}
    model, inputs = model_of("llama", torch.float64), prompt(2, 70, (9,))
    method = create(name, **settings, **small)
    found = logits(model, inputs, method)
    match limit.oracle:
        case "dense":
            expected = plain.run(model, inputs, lambda call: call.allowed).logits
        case "sliding_window":
            expected = logits(model, inputs, create("sliding_window", **small))
        case "block_diagonal":
            size = method.settings["block"]
            assert isinstance(size, int)
            expected = plain.run(model, inputs, moba(size, 1)).logits
        case "values":
            record = Record()
            logits(model, inputs, method, record)
            for call in record.calls:  # one key: its value is what comes out
                assert float((call["out"] - call["v"].repeat_interleave(2, 1))[:, :, 9:].abs().max()) == 0.0
            return
        case other:
            pytest.fail(f"no oracle called {other}")
    assert gap(found, expected, inputs) <= 16 * torch.finfo(torch.float32).eps


@pytest.mark.parametrize(("top_k", "block"), [(5, 16), (9, 8), (1, 70), (1, 500)])
def test_moba_is_dense_from_so_many_blocks_on(top_k: int, block: int) -> None:
    model, inputs = model_of("llama", torch.float64), prompt(2, 70, (9,))
    expected = plain.run(model, inputs, lambda call: call.allowed).logits
    assert gap(logits(model, inputs, create("moba", top_k=top_k, block=block)), expected, inputs) <= 2e-6
    if top_k > 1:
        fewer = logits(model, inputs, create("moba", top_k=top_k - 1, block=block))
        assert gap(fewer, expected, inputs) > 1e-3


def test_moba_with_one_block_is_block_diagonal() -> None:
    model, inputs = model_of("llama", torch.float64), prompt(1, 64)
    found = logits(model, inputs, create("moba", top_k=1, block=16))
    alone = {key: value[:, 48:] for key, value in inputs.items()}  # rotation knows distances only
    assert gap(found[:, 48:], logits(model, alone), alone) <= 2e-6
