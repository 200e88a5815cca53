"""A model's predictions without all its logits at once, what memory a piece of work took, and one layer on its own."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import Any

import pytest
import torch

from regard.bench.observe import Keep, Picture
from regard.bench.quality import quality
from regard.bench.subject import Subject
from regard.bench.timing import against_dense, attention, seconds
from regard.errors import Unsupported
from regard.hf import Loaded, apply
from regard.methods.dense import Dense
from regard.methods.registry import parse
from tests.bench.tiny import subject, text
from tests.hf.apply.families import VOCABULARY, build

# Plain; soft-capped logits; logits that are scaled, up and down; only the decoder inside is called; nothing rotates.
FAMILIES = ("llama", "gemma2", "cohere", "granite", "opt", "gpt2", "gpt_oss", "gpt_neox", "mistral")


def ids(length: int) -> torch.Tensor:
    return torch.randint(3, VOCABULARY, (length,), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_of_last_hidden_states_are_the_model_s(family: str) -> None:
    model, tokens = build(family), ids(40)
    one = Subject(Loaded(model, None, family, None, None))
    hidden, past = one.read(tokens[:30])
    with torch.no_grad():
        expected = model(tokens[None]).logits[0]
        later = one.forward(tokens[None, 30:], past).logits[0]
    close = 1e-4 * float(expected.abs().max())
    assert float((one.logits(hidden) - expected[:30]).abs().max()) <= close
    assert float((later - expected[30:]).abs().max()) <= close
    found = torch.cat([part for _, part in one.log_probabilities(hidden)])
    assert float((found - expected[:30].log_softmax(-1)).abs().max()) <= close


def test_a_model_that_does_something_else_to_its_logits_is_refused() -> None:
    model = build("llama")

    def shifted(module: object, given: object, out: Any) -> Any:
        out.logits = out.logits + 1
        return out

    model.register_forward_hook(shifted)
    with pytest.raises(Unsupported, match="computes its logits in a way that regard compare doesn't know"):
        Subject(Loaded(model, None, "odd", None, None)).read(ids(20))


def test_logits_are_stretched_over_and_nothing_is_left_out() -> None:
    one = subject()
    tokens = one.tokens(text().content)[:600]
    hidden, _ = one.read(tokens)
    stretches = [stretch for stretch, _ in one.log_probabilities(hidden)]
    assert [(s.start, s.stop) for s in stretches] == [(0, 256), (256, 512), (512, 600)]
    found = quality(one, tokens, hidden, None)
    with torch.no_grad():
        logits = one.model(tokens[None]).logits[0]
    expected = torch.nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="none")
    assert torch.allclose(found.losses, expected, atol=1e-4)
    same = quality(one, tokens, hidden, hidden)
    assert float(same.kl.max()) == 0
    assert bool(same.agree.all())


_PEAKS = """
import torch
from regard.bench.memory import peak

size, device = 64 << 20, torch.device("cpu")
for blocks in (3, 3, 3, 0):
    with peak(device) as held:
        for _ in range(blocks):  # one after the other, not three at once
            block = torch.ones(size, dtype=torch.uint8)
            del block
    print(-1 if held.bytes is None else held.bytes / size)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_the_peak_is_what_was_held_at_once() -> None:
    # In a process of its own: whatever else this one's threads hold meanwhile counts in its peak.
    found = subprocess.run([sys.executable, "-c", _PEAKS], check=True, capture_output=True, text=True).stdout
    *held, nothing = (float(line) for line in found.split())
    if nothing < 0:
        pytest.skip("this system does not let a process reset its peak")
    assert 0.9 < min(held) < 2.5, held  # three at once would be 3
    assert nothing < 0.5


def test_seconds() -> None:
    assert seconds(lambda: time.sleep(0.05), torch.device("cpu")) >= 0.05


def test_one_layer_is_kept_and_run_on_its_own() -> None:
    one, keep = subject(), Keep(1)
    tokens = one.tokens(text().content)[:512]
    with apply(one.model, keep):
        one.read(tokens)
    assert keep.kept is not None
    assert keep.kept.q.shape == (1, 4, 512, 8)
    assert keep.kept.k.shape == keep.kept.v.shape == (1, 2, 512, 8)
    first = keep.kept.first(256)
    assert torch.equal(first.q, keep.kept.q[:, :, :256])
    assert first.site.k_positions.tolist() == [list(range(256))]
    for typed in ("streaming_llm:window=60,sinks=4", "moba:block=32,top_k=2", "spargeattn:q_block=32,k_block=32"):
        attention(parse(typed), first)  # its positions inside the cache are to be had outside of a run
        times = against_dense(parse(typed), Dense(), keep.kept, 512)
        assert [length for length, _, _ in times] == [256, 512]
        assert all(ours > 0 and theirs > 0 for _, ours, theirs in times)


def test_a_picture_shows_where_a_head_looks() -> None:
    one, picture = subject(), Picture(0, 2, size=16)
    tokens = one.tokens(text().content)[:128]
    with apply(one.model, parse("sliding_window:window=8"), picture):
        one.read(tokens)
    found = picture.map()
    assert {key: found[key] for key in ("layer", "head", "tokens")} == {"layer": 0, "head": 2, "tokens": 128}
    weights = torch.tensor(found["weights"])
    assert weights.shape == (16, 16)
    lit = weights > 0
    assert lit.diagonal().all()
    # Squares of 8 tokens: the own one and the one before it, since a window of 8 reaches into it.
    row, column = torch.arange(16)[:, None], torch.arange(16)
    assert not lit[(column > row) | (column < row - 1)].any()
