"""Each feature of a model's attention against attention written out in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.hf.applied import apply
from tests.hf.apply.families import build
from tests.hf.apply.models import Record, prompt

WINDOW = 5


def oracle(
    call: dict, lead: list[int], first: int, window: int | None, cap: float | None, sinks: Tensor | None
) -> Tensor:
    """Row by row: queries are tokens first, first + 1, ..; keys are the last ones up to the last query."""
    q, k, v, scale = call["q"], call["k"], call["v"], call["site"].scale
    (B, H, N, _), (G, M) = q.shape, k.shape[1:3]
    out = torch.zeros(B, H, N, v.shape[3], dtype=torch.float64)
    start = first + N - M  # the token in the first slot
    for b in range(B):
        for h in range(H):
            for n in range(N):
                token = first + n
                seen = [s for s in range(M) if lead[b] <= start + s <= token]
                if window is not None:
                    seen = [s for s in seen if token - (start + s) < window]
                if not seen:
                    continue
                keys, values = k[b, h // (H // G), seen], v[b, h // (H // G), seen]
                scores = keys @ q[b, h, n] * scale
                if cap is not None:
                    scores = cap * torch.tanh(scores / cap)
                largest = scores.max()
                weights = torch.exp(scores - largest)
                total = weights.sum()
                if sinks is not None:
                    total = total + torch.exp(sinks[h].double() - largest)
                out[b, h, n] = (weights / total) @ values
    return out


@pytest.mark.parametrize(
    ("family", "cap"), [("llama", None), ("mistral", None), ("gemma2", 2.0), ("gpt_oss", None), ("gemma3_text", None)]
)
@torch.no_grad()
def test_against_the_oracle(family: str, cap: float | None) -> None:
    model = build(family)
    inputs = prompt(padding=(4,))
    record = Record()
    with apply(model, record):
        model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, do_sample=False)
    kinds = (
        getattr(model.config, "layer_types", None)
        or ["sliding_attention" if family == "mistral" else "full_attention"] * 2
    )
    phases = set()
    for number, call in enumerate(record.calls):
        site = call["site"]
        first = 0 if number < 2 else 11 + number // 2
        window = WINDOW if kinds[site.layer] == "sliding_attention" else None
        sinks = getattr(site.module, "sinks", None)
        expected = oracle(call, [4, 0], first, window, cap, sinks)
        # The model computes in float32: a few roundings of values of this size.
        bound = 64 * torch.finfo(torch.float32).eps * float(call["v"].abs().max())
        assert float((call["out"] - expected).abs().max()) <= bound
        phases.add((site.phase, site.kind))
    assert len(record.calls) == 12
    assert phases == {("prefill", "self"), ("decode", "self")}
    if family in ("mistral", "gemma2", "gpt_oss", "gemma3_text"):
        assert "sliding_attention" in kinds


@torch.no_grad()
def test_mixed_head_widths_and_one_key_for_many_heads() -> None:
    model = build("deepseek_v3")
    record = Record()
    with apply(model, record):
        model(**prompt(padding=(3,)))
    call = record.calls[0]
    assert (call["site"].width, call["site"].value_width) == (12, 6)
    expected = oracle(call, [3, 0], 0, None, None, None)
    assert float((call["out"] - expected).abs().max()) <= 64 * 2**-23 * float(call["v"].abs().max())
