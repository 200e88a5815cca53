"""A second stream through the stack, and what is made of it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import regard
from regard.backbones import DecoderLM, stack
from regard.backbones.block import Block
from regard.mechanisms import Layer
from tests.backbones.test_decoder import Spy, words

SEQUENCE = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8]


def made(*variants: str, seed: int = 0, length: int = 12) -> DecoderLM:
    """Layers without rotary positions, so that the formula below is short."""
    torch.manual_seed(seed)

    def layer(variant: str) -> Layer:
        extra = {"stream": SEQUENCE} if variant == "text_fixed" else {"length": length}
        return regard.create("deconstructed", dim=16, heads=2, variant=variant, rope=False, **extra)

    model = DecoderLM(11, 16, [layer(one) for one in variants], generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model.double()


def formula(model: DecoderLM, ids: Tensor) -> Tensor:
    """Tokens and stream side by side, a layer at a time; one row of the batch at a time."""
    told = []
    for row in ids:
        x = model.embedding.weight[row] * 4
        first = next(b.attention for b in model._blocks() if hasattr(b.attention, "stream"))
        start = first.stream[: len(row)]
        s = start if start.is_floating_point() else model.embedding.weight[start] * 4
        for block in model._blocks():
            fixed = hasattr(block.attention, "stream")
            shown = normed(s, block.before_attention.weight)
            y = normed(x, block.before_attention.weight)
            x = x + attended(block.attention, shown if fixed else y, y)
            x = x + gated(block, normed(x, block.before_map.weight))
            s = s + attended(block.attention, shown, shown)
            s = s + gated(block, normed(s, block.before_map.weight))
        told.append(normed(x, model.norm.weight) @ model.embedding.weight.T)
    return torch.stack(told)


def attended(layer: Layer, asks: Tensor, gives: Tensor) -> Tensor:
    q, k, v = (
        one.reshape(-1, 2, 8) for one in (asks @ layer.q.weight.T, asks @ layer.k.weight.T, gives @ layer.v.weight.T)
    )
    rows = []
    for t in range(len(gives)):
        heads = [torch.softmax(k[: t + 1, h] @ q[t, h] / 8**0.5, 0) @ v[: t + 1, h] for h in range(2)]
        rows.append(torch.cat(heads))
    return torch.stack(rows) @ layer.out.weight.T


def gated(block: Block, x: Tensor) -> Tensor:
    hidden = x @ block.map.gate.weight.T
    return (hidden * torch.sigmoid(hidden) * (x @ block.map.up.weight.T)) @ block.map.down.weight.T


def normed(x: Tensor, weight: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + torch.finfo(torch.float64).eps).sqrt() * weight


STACKS = [
    ("rnd_fixed",) * 3,
    ("standard", "rnd_fixed") * 2,
    ("text_fixed",) * 2,
    ("rnd_fixed", "standard", "rnd_fixed"),
]


@pytest.mark.parametrize("variants", STACKS, ids=" ".join)
def test_the_stream_runs_beside_the_tokens(variants: tuple[str, ...]) -> None:
    model, ids = made(*variants), words()
    out, want = model(ids), formula(model, ids)
    torch.testing.assert_close(out, want)
    loss, known = (F.cross_entropy(one[:, :-1].flatten(0, 1), ids[:, 1:].flatten()) for one in (out, want))
    slopes = torch.autograd.grad(loss, list(model.parameters()))
    wants = torch.autograd.grad(known, list(model.parameters()))
    for (name, _), slope, other in zip(model.named_parameters(), slopes, wants, strict=True):
        torch.testing.assert_close(slope, other, msg=lambda text, name=name: f"{name}: {text}")


def test_the_first_fixed_layer_s_sequence_is_the_stack_s() -> None:
    model, ids = made("standard", "rnd_fixed", "rnd_fixed"), words()
    want = model(ids)
    model._blocks()[2].attention.stream.fill_(torch.nan)
    assert torch.equal(model(ids), want)
    model._blocks()[1].attention.stream.add_(torch.randn(12, 16))
    assert not torch.allclose(model(ids), want)


@pytest.mark.parametrize("variants", STACKS)
def test_decoding_holds_values_and_one_table_of_keys(variants: tuple[str, ...]) -> None:
    model, ids = made(*variants), words()
    state, told = model.init_state(2), []
    for part in ids.split([4, 1, 1, 3], 1):
        logits, state = model.step(state, part)
        told.append(logits)
    torch.testing.assert_close(torch.cat(told, 1), model(ids))
    fixed = [kept.inner for kept, name in zip(state.layers, variants, strict=True) if name != "standard"]
    assert [[part.shape for part in one.held.parts] for one in fixed] == [[(2, 2, 9, 8)]] * len(fixed)
    assert [one.keys.shape for one in fixed] == [(1, 2, 9, 8)] * len(fixed)


def test_rows_of_different_lengths_decode_beside_each_other() -> None:
    model, ids = made("rnd_fixed", "standard", "rnd_fixed"), words(3)
    real = torch.tensor([[False, False, False, True], [True, True, True, True], [False, True, True, True]])
    _, state = model.step(model.init_state(3), ids[:, :4], real)
    _, state = model.step(model.reorder(state, torch.tensor([2, 0, 0, 1])), ids[[2, 0, 0, 1], 4:6])
    logits, _ = model.step(state, ids[[2, 0, 0, 1], 6:])
    for row, (own, first) in enumerate([(2, 1), (0, 3), (0, 3), (1, 0)]):
        torch.testing.assert_close(logits[row], model(ids[own : own + 1, first:])[0, -3:])


def test_a_text_past_the_sequence_is_refused_and_padding_does_not_count() -> None:
    model, ids = made("rnd_fixed", length=9), words(2, 10)
    with pytest.raises(ValueError, match=r"has 9 positions and token 9 is past them\. Type length=10"):
        model(ids)
    _, state = model.step(model.init_state(2), ids[:, :9])
    with pytest.raises(ValueError, match="token 9 is past them"):
        model.step(state, ids[:, 9:])
    real = torch.arange(10)[None].expand(2, -1) >= 1
    torch.testing.assert_close(model(ids, real)[:, 1:], model(ids[:, 1:]))


def test_layers_take_turns() -> None:
    def named(count: int, *names: str) -> str:
        makers = [lambda name=name: regard.create("deconstructed", dim=16, heads=2, variant=name) for name in names]
        return " ".join(layer.variant for layer in stack(count, *makers))

    assert named(3, "taylor") == "taylor taylor taylor"
    assert named(5, "standard", "taylor") == "standard taylor standard taylor standard"
    assert named(6, "standard", "mlp", "mlp") == "standard mlp mlp standard mlp mlp"
    model = DecoderLM(5, 16, stack(2, lambda: regard.create("softmax", dim=16, heads=2)))
    assert model._blocks()[0].attention is not model._blocks()[1].attention
    for count, names in ((1, ("standard", "mlp")), (3, ())):
        with pytest.raises(
            ValueError, match=rf"stack of {count} layers can't take turns between {len(names)} mechanisms"
        ):
            named(count, *names)


def test_a_hybrid_without_its_odd_layers() -> None:
    model, ids = made("standard", "taylor", "standard", "nonapprox"), words()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    skipped = model.without(range(1, 4, 2))
    even = made("standard", "standard")
    for name, value in even.state_dict().items():
        value.copy_(before[name.replace("blocks.1", "blocks.2")])
    torch.testing.assert_close(skipped(ids), even(ids))
    state, told = skipped.init_state(2), []
    for part in ids.split(3, 1):
        logits, state = skipped.step(state, part)
        told.append(logits)
    torch.testing.assert_close(torch.cat(told, 1), even(ids))
    with torch.no_grad():
        for parameter in skipped.parameters():
            parameter.zero_()
    assert len(model.blocks) == 4
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_layers_that_stay_keep_their_places_and_the_stream() -> None:
    spies = [Spy() for _ in range(4)]
    model, ids = DecoderLM(11, 16, spies), words()
    kept = model.without([0, 2]).without([0])
    kept(ids)
    kept.step(kept.init_state(2), ids)
    assert [call.layer for block in kept._blocks() for call in block.attention.calls] == [3, 3]
    fixed = made("rnd_fixed", "standard", "rnd_fixed")
    torch.testing.assert_close(fixed.without([1])(ids), formula(fixed.without([1]), ids))
    assert fixed.without([0, 2])._streams() == (None,)


@pytest.mark.parametrize(("gone", "shown"), [([2], r"\[2\]"), ([-1], r"\[-1\]"), ([0, 1], r"\[0, 1\]")])
def test_blocks_that_are_not_there_can_t_be_left_out(gone: list[int], shown: str) -> None:
    with pytest.raises(ValueError, match=rf"takes some of the blocks 0 to 1 and leaves at least one; got {shown}\."):
        made("standard", "standard").without(gone)
