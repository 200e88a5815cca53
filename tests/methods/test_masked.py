"""Every method on whole models against attention written out in float64 under the paper's own formula."""

from __future__ import annotations

import pytest
import torch

from regard.hf.applied import apply
from regard.methods.registry import methods, parse
from tests.methods import plain
from tests.methods.formulas import CASES, Case, everything
from tests.methods.models import FAMILIES, gap, logits, model_of, prompt, stepped

EVERY = [(name, number) for name in methods() for number in range(len(CASES.get(name, [])))]
# Norms inside the models compute in float32, so that equal inputs may differ by a rounding of it after each.
CLOSE = 16 * torch.finfo(torch.float32).eps
DOUBLE = torch.float64


def case(name: str, number: int) -> Case:
    return CASES[name][number]


def test_every_method_has_a_formula() -> None:
    assert set(CASES) == set(methods())


@pytest.mark.parametrize(
    ("name", "number", "family"),
    [(name, number, family) for name, number in EVERY for family in (FAMILIES[:3] if number else FAMILIES)],
)
def test_prefill_equals_the_formula(name: str, number: int, family: str) -> None:
    one, model = case(name, number), model_of(family, DOUBLE)
    method, inputs = parse(one.text), prompt(2, 150, (17,))
    expected = plain.run(model, inputs, one.rule)
    place = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad(), apply(model, method) as run:
        found = model(**inputs, position_ids=place).logits
    assert gap(found, expected.logits, inputs) <= CLOSE
    # The meter's count, layer by layer and head by head, is the formula's.
    for record, seen, allowed in zip(run.meter.select(), expected.seen, expected.allowed, strict=True):
        assert record.visible.tolist() == seen.sum((0, 2, 3)).tolist()
        assert record.allowed.tolist() == allowed.sum((0, 2, 3)).tolist()
    assert run.meter.density() == pytest.approx(expected.density, rel=1e-12)
    if name != "dense":
        # Nothing was compared if the method looked at everything.
        assert expected.density < 0.95
        assert gap(logits(model, inputs), expected.logits, inputs) > 1000 * CLOSE


@pytest.mark.parametrize("family", ["llama", "gemma2", "opt"])
@pytest.mark.parametrize(("name", "number"), EVERY)
def test_decoding_equals_the_formula(name: str, number: int, family: str) -> None:
    one, model = case(name, number), model_of(family, DOUBLE)
    inputs = prompt(2, 60, (9,))
    read, chunks = 31, [31, 1, 1, 12, 1, *[1] * 14]
    if one.decoding is not None:
        chunks = [31, *[1] * 29]
        late, rule, decoding = read, one.rule, one.decoding

        def joined(call: plain.Call):
            whole = decoding(call)
            first = plain.Call(
                call.layer, call.q[:, :, :late], call.k[:, :, :late], call.place[:, :late],
                call.allowed[:, :, :late, :late], call.scale, call.window,
            )  # fmt: skip
            seen = (whole & call.allowed).copy()
            seen[:, :, :late, :late] = rule(first)
            return seen

        expected = plain.run(model, inputs, joined)
    else:
        expected = plain.run(model, inputs, one.rule)
    found = stepped(model, inputs, chunks, parse(one.text))
    assert gap(found, expected.logits, inputs) <= CLOSE


@pytest.mark.parametrize("family", ["llama", "gpt_oss", "opt"])
@pytest.mark.parametrize(("name", "number"), EVERY)
def test_padding_changes_nothing(name: str, number: int, family: str) -> None:
    model, method = model_of(family, DOUBLE), parse(case(name, number).text)
    inputs = prompt(2, 90, (33, 4))
    found = logits(model, inputs, method)
    for row, lead in enumerate((33, 4)):
        alone = {key: value[row : row + 1, lead:] for key, value in inputs.items()}
        assert gap(found[row : row + 1, lead:], logits(model, alone, method), alone) <= CLOSE


@pytest.mark.parametrize(("name", "number"), EVERY)
def test_the_past_is_used_and_the_future_is_not(name: str, number: int) -> None:
    """SpargeAttn alone pools queries over blocks, so it is tried with one token to a block."""
    text = case(name, number).text
    method = parse("spargeattn:tau=0.5,q_block=1,k_block=1,theta=-1") if name == "spargeattn" else parse(text)
    model, inputs = model_of("llama", DOUBLE), prompt(1, 64)
    before = logits(model, inputs, method)
    changed = {**inputs, "input_ids": inputs["input_ids"].clone()}
    changed["input_ids"][0, 40] = (changed["input_ids"][0, 40] + 1) % 90 + 3
    after = logits(model, changed, method)
    assert torch.equal(after[:, :40], before[:, :40])
    assert not torch.allclose(after[:, 40], before[:, 40])
    assert torch.equal(after[:, 41:], before[:, 41:]) == (text in ALONE)


ALONE = ("sliding_window:window=1", "streaming_llm:window=1,sinks=1,in_cache_positions=false")


@pytest.mark.parametrize(
    ("name", "number"), [(name, number) for name, number in EVERY if name not in ("moba", "oracle_top_k", "spargeattn")]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_lower_precision(name: str, number: int, dtype: torch.dtype) -> None:
    """At most twice the error of the untouched model in that precision. Methods that choose by content may choose
    otherwise when scores are rounded, so they are left out."""
    one, inputs = case(name, number), prompt(2, 150, (17,))
    model = model_of("llama", DOUBLE)
    expected, whole = (plain.run(model, inputs, rule).logits for rule in (one.rule, everything))
    low = model_of("llama", dtype)
    error = gap(logits(low, inputs, parse(one.text)).double(), expected, inputs)
    assert 0 < error <= 2 * gap(logits(low, inputs).double(), whole, inputs)
