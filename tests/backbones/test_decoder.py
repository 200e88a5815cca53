"""The decoder around attention layers that it is given."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from torch import Tensor

import regard
from regard.backbones import DecoderLM
from regard.core import Cost, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms import Call, Layer


def made(name: str = "softmax", *, seed: int = 0, **settings: object) -> DecoderLM:
    torch.manual_seed(seed)
    layers = [regard.create(name, dim=16, heads=2) for _ in range(2)]
    model = DecoderLM(11, 16, layers, generator=torch.Generator().manual_seed(seed), **settings)  # type: ignore[arg-type]
    return model.double()


def words(batch: int = 2, length: int = 9) -> Tensor:
    return torch.randint(11, (batch, length), generator=torch.Generator().manual_seed(3))


class Spy(Layer):
    """Keeps every call."""

    spec: ClassVar[Spec] = Spec(
        id="spy", slot="layer", source=Source("none"), what="Keeps every call.", cost=Cost(time=1, state=0)
    )

    def __init__(self) -> None:
        super().__init__()
        self.dim, self.calls = 16, list[Call]()

    def attend(self, call: Call) -> Tensor:
        self.calls.append(call)
        return torch.zeros_like(call.tokens)

    def begin(self, batch: int) -> Tensor:
        return torch.zeros(batch, 1)

    def advance(self, inner: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        return self.attend(call), inner


def test_the_formula_of_one_block() -> None:
    """The residuals, norms and the gated map, written out."""
    model, ids = made(), words()
    x = model.embedding.weight[ids] * 4  # the root of the width
    start = x
    for index, block in enumerate(model._blocks()):
        x = x + block.attention(_normed(x, block.before_attention.weight), causal=True, embeddings=start, layer=index)
        y, own = _normed(x, block.before_map.weight), block.map
        x = x + (torch.nn.functional.silu(y @ own.gate.weight.T) * (y @ own.up.weight.T)) @ own.down.weight.T
    torch.testing.assert_close(model(ids), _normed(x, model.norm.weight) @ model.embedding.weight.T)


def _normed(x: Tensor, weight: Tensor) -> Tensor:
    eps = torch.finfo(torch.float64).eps
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * weight


def test_the_future_does_not_move_the_past() -> None:
    model, ids = made(), words()
    other = ids.clone()
    other[:, 5:] = (other[:, 5:] + 1) % 11
    torch.testing.assert_close(model(other)[:, :5], model(ids)[:, :5])
    assert not torch.allclose(model(other)[:, 5:], model(ids)[:, 5:])


def test_steps_equal_the_whole_pass() -> None:
    model, ids = made("sliding_window"), words()
    state, told = model.init_state(2), []
    for part in ids.split([4, 1, 1, 3], 1):
        logits, state = model.step(state, part)
        told.append(logits)
    torch.testing.assert_close(torch.cat(told, 1), model(ids))


def test_padding_is_left_out() -> None:
    model, ids = made(), words(1)
    padded = torch.cat([torch.full((1, 3), 7), ids], 1)
    real = torch.arange(12)[None] >= 3
    torch.testing.assert_close(model(padded, real)[:, 3:], model(ids))


def test_greedy_words_are_the_likeliest_of_the_whole_pass() -> None:
    model, ids = made(), words()
    told = model.generate(ids, 4)
    whole = ids
    for _ in range(4):
        whole = torch.cat([whole, model(whole)[:, -1:].argmax(-1)], 1)
    assert torch.equal(told, whole[:, 9:])


@pytest.mark.parametrize("stepwise", [False, True])
def test_a_layer_is_told_its_place_and_the_model_s_input(stepwise: bool) -> None:
    spies, ids = [Spy(), Spy()], words()
    model = DecoderLM(11, 16, spies)
    if stepwise:
        model.step(model.init_state(2), ids)
    else:
        model(ids)
    assert [spy.calls[0].layer for spy in spies] == [0, 1]
    assert all(spy.calls[0].causal for spy in spies)
    for spy in spies:
        torch.testing.assert_close(spy.calls[0].embeddings, model.embedding(ids) * 4)


def test_two_models_of_one_seed_differ_in_their_attention_alone() -> None:
    one, other = made("softmax"), made("gqa")
    names = [name for name, _ in one.named_parameters() if ".attention." not in name]
    assert len(names) > 5
    for name in names:
        assert torch.equal(one.get_parameter(name), other.get_parameter(name)), name
    again = made("softmax", seed=1)
    assert not torch.equal(one.embedding.weight, again.embedding.weight)


def test_the_head_is_the_embedding_unless_it_is_its_own() -> None:
    tied, free = made(), made(tied=False)
    assert tied.head.weight is tied.embedding.weight
    assert free.head.weight is not free.embedding.weight
    assert sum(p.numel() for p in free.parameters()) == sum(p.numel() for p in tied.parameters()) + 11 * 16


def test_the_map_s_width() -> None:
    assert made()._blocks()[0].map.up.weight.shape == (48, 16)  # 8/3 of the width, a multiple of 8
    assert made(hidden=20)._blocks()[0].map.up.weight.shape == (20, 16)


def test_what_does_not_fit_is_refused() -> None:
    layer = regard.create("softmax", dim=16, heads=2)
    with pytest.raises(ValueError, match=r"needs vocabulary >= 1 and at least one layer; got 0 and 1 layers\."):
        DecoderLM(0, 16, [layer])
    with pytest.raises(ValueError, match="at least one layer"):
        DecoderLM(3, 16, [])
    with pytest.raises(ShapeError, match=r"has dim=8, and layer 0 is 16 wide\. Give one width\."):
        DecoderLM(3, 8, [layer])
    with pytest.raises(ShapeError, match=r"ids as whole numbers \[B, N\]; got torch.float32 \[1, 2\]\."):
        made()(torch.zeros(1, 2))
    with pytest.raises(ValueError, match=r"needs count >= 1; got 0\."):
        made().generate(words(), 0)
