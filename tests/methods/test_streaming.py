"""StreamingLLM against the paper's own loop: token by token, every kept key turned to its place inside the cache."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.errors import Unsupported
from regard.hf.applied import apply, check
from regard.methods.registry import create
from tests.methods.models import gap, logits, model_of, prompt, stepped
from tests.methods.plain import using
from tests.oracle import Array, array, attention, softmax

CLOSE = 16 * torch.finfo(torch.float32).eps
ROTATED = ("llama", "gemma2", "gpt_oss", "gpt_neox", "phi", "mistral")


@dataclass
class Layer:
    """The keys of one layer as they are before any rotation, their values, and their numbers in the text."""

    keys: list[Array] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)


def turned(x: Array, place: Array, frequencies: Array) -> Array:
    """x [B, H, n, D] rotated to the places [n]: the first channels, in two halves that are paired."""
    angle = place[:, None] * frequencies
    half = len(frequencies)
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    cos, sin = np.cos(angle), np.sin(angle)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1)


def loop(model: nn.Module, ids: Tensor, window: int, sinks: int) -> Tensor:
    """Logits [1, N, V]: every token is read alone, as if at position 0, and looks at the keys that the cache kept."""
    base = model.base_model
    frequencies = array(base.rotary_emb.inv_freq)
    layers: dict[int, Layer] = {}
    token = 0

    def attend(
        module: nn.Module, q: Tensor, k: Tensor, v: Tensor, mask: object, *, scaling: float | None = None,
        sliding_window: int | None = None, softcap: float | None = None, s_aux: Tensor | None = None, **others: object,
    ) -> tuple[Tensor, None]:  # fmt: skip
        held = layers.setdefault(module.layer_idx, Layer())
        held.keys.append(array(k))
        held.values.append(array(v))
        held.numbers.append(token)
        if len(held.numbers) > sinks + window:
            for kept in (held.keys, held.values, held.numbers):
                del kept[sinks]
        places = np.arange(len(held.numbers))
        keys = turned(np.concatenate(held.keys, 2), places, frequencies)
        query = turned(array(q), places[-1:], frequencies)
        # What the model's own sliding window hides stays hidden, by the distance in the text.
        seen = token - np.array(held.numbers) < (sliding_window or np.inf)
        edits = [] if softcap is None else [lambda s: softcap * np.tanh(s / softcap)]
        normal = None if s_aux is None else softmax(array(s_aux).tolist())
        values = np.concatenate(held.values, 2)
        out = attention(query, keys, values, seen, scale=scaling, edits=edits, normal=normal).out
        return torch.from_numpy(out).to(q.dtype).transpose(1, 2).contiguous(), None

    found = []
    with using(model, attend), torch.no_grad():
        for token in range(ids.shape[1]):
            one = ids[:, token : token + 1]
            found.append(model(one, position_ids=torch.zeros_like(one), use_cache=False).logits)
    return torch.cat(found, 1)


@pytest.mark.parametrize(("window", "sinks"), [(12, 4), (1, 2), (30, 1)])
@pytest.mark.parametrize("family", ROTATED)
def test_prefill_and_decoding_equal_the_loop(family: str, window: int, sinks: int) -> None:
    model, inputs = model_of(family, torch.float64), prompt(1, 75)
    method = create("streaming_llm", window=window, sinks=sinks)
    expected = loop(model, inputs["input_ids"], window, sinks)
    assert gap(logits(model, inputs, method), expected, inputs) <= CLOSE
    for chunks in ([1] * 75, [40, *[1] * 35], [7, 1, 20, 30, 1, 1, 15]):
        assert gap(stepped(model, inputs, chunks, method), expected, inputs) <= CLOSE
    text = create("streaming_llm", window=window, sinks=sinks, in_cache_positions=False)
    assert gap(logits(model, inputs, text), expected, inputs) > 1000 * CLOSE  # positions do matter


@pytest.mark.parametrize("family", ["llama", "phi"])
def test_padded_rows_equal_the_loop(family: str) -> None:
    model, inputs = model_of(family, torch.float64), prompt(2, 70, (19, 3))
    method = create("streaming_llm", window=12, sinks=4)
    whole, steps = logits(model, inputs, method), stepped(model, inputs, [30, *[1] * 20, 10, *[1] * 10], method)
    for row, lead in enumerate((19, 3)):
        expected = loop(model, inputs["input_ids"][row : row + 1, lead:], 12, 4)
        alone = {key: value[row : row + 1, lead:] for key, value in inputs.items()}
        assert gap(whole[row : row + 1, lead:], expected, alone) <= CLOSE
        assert gap(steps[row : row + 1, lead:], expected, alone) <= CLOSE


def test_a_stream_of_any_length_keeps_its_bytes_and_its_logits() -> None:
    """Forty times the window, and past every position that the model was made for."""
    model = model_of("llama", torch.float64)
    model.config.max_position_embeddings = 128
    window, sinks, length = 12, 4, 500
    inputs = prompt(1, length)
    expected = loop(model, inputs["input_ids"], window, sinks)
    outs, held = [], []
    with torch.no_grad(), apply(model, create("streaming_llm", window=window, sinks=sinks)) as run:
        cache = run.cache()
        for token in range(length):
            one = inputs["input_ids"][:, token : token + 1]
            outs.append(model(one, **{run.cache_name: cache}).logits)
            held.append(run.meter.kv_bytes)
    # The model rounds angles, up to `length` radians, to float32.
    assert gap(torch.cat(outs, 1), expected, inputs) <= length * torch.finfo(torch.float32).eps
    slot = 2 * 2 * 2 * 8 * 8 + 2 * 8  # layers, keys and values, groups, width, bytes; and each slot's number
    assert set(held[window:]) == {(window + sinks) * slot}
    assert held[:window] == [n * slot for n in range(1, window + 1)]


def test_positions_inside_the_cache_are_bounded() -> None:
    """Where only the sinks and the window matter, what lay between them does not, nor how much of it there was."""
    model = model_of("llama", torch.float64, num_hidden_layers=1)
    method = create("streaming_llm", window=10, sinks=3)
    one, other = prompt(1, 60, seed=1), prompt(1, 200, seed=2)
    ids = other["input_ids"].clone()
    ids[:, :3], ids[:, -10:] = one["input_ids"][:, :3], one["input_ids"][:, -10:]
    short, long = logits(model, one, method), logits(model, {**other, "input_ids": ids}, method)
    assert float((short[:, -1] - long[:, -1]).abs().max() / short.abs().max()) <= CLOSE
    text = create("streaming_llm", window=10, sinks=3, in_cache_positions=False)
    short, long = logits(model, one, text), logits(model, {**other, "input_ids": ids}, text)
    assert float((short[:, -1] - long[:, -1]).abs().max() / short.abs().max()) > 1000 * CLOSE


@pytest.mark.parametrize("family", ["opt", "gpt2"])
def test_a_model_that_does_not_rotate_is_refused_with_what_to_type(family: str) -> None:
    model = model_of(family)
    reasons = check(model, create("streaming_llm"))
    assert reasons
    for reason in reasons:
        assert reason.startswith("streaming_llm: in-cache positions are not to be had: ")
        assert reason.endswith("is given no rotary embedding: its keys can't be turned to other positions.; use "
                               "streaming_llm:in_cache_positions=false")  # fmt: skip
    with pytest.raises(Unsupported, match="in_cache_positions=false"):
        apply(model, create("streaming_llm"))
    for settings in ({"in_cache_positions": False}, {"sinks": 0}):
        assert check(model, create("streaming_llm", **settings)) == []


@pytest.mark.parametrize("family", ROTATED)
def test_a_model_that_rotates_is_served(family: str) -> None:
    assert check(model_of(family), create("streaming_llm")) == []


def test_an_encoder_is_refused() -> None:
    assert check(model_of("bert"), create("streaming_llm")) != []
