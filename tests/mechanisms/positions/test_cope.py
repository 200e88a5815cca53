"""CoPE: what its gates count."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from regard.errors import ShapeError
from regard.layers import Attention, create
from regard.mechanisms import Call
from regard.mechanisms.positions import CoPE, CoPEFromValues
from regard.testing import oracles, subjects
from regard.testing.subject import stir

N, D = 7, 6


def stirred(**settings: object) -> CoPE:
    torch.manual_seed(0)
    position = CoPE(D, **settings).double()  # type: ignore[arg-type]
    with torch.no_grad():
        position.table.normal_()
    return position


def bias(position: CoPE, q: Tensor, k: Tensor) -> Tensor:
    (edit,) = position.edits(q, k, Call(tokens=q, memory=k, causal=True))
    return edit.values  # type: ignore[attr-defined]


def facing(sign: float) -> tuple[Tensor, Tensor]:
    """Random queries and keys whose products are large and of one sign, so that gates are all 1 or all 0."""
    q, k = torch.randn(2, 1, 2, N, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    q[..., 0], k[..., 0] = 300.0, 300.0 * sign
    return q, k


def test_with_learned_embeddings_it_counts_as_the_oracle_does():
    (subject, *_) = subjects("cope")
    layer = stir(subject.layer(stirred=False, settings={"npos": 4}), 3)
    x = subject.tokens()
    want = oracles.find("cope")(layer, x, None, True)
    assert torch.allclose(layer(x, causal=True), want, atol=1e-10)
    assert not torch.allclose(want, oracles.find("softmax")(layer, x, None, True), atol=1e-3)


@pytest.mark.parametrize("npos", [3, 64])
def test_open_gates_give_the_relative_position_and_shut_ones_none(npos):
    position = stirred(npos=npos)
    q, k = facing(1.0)
    found = bias(position, q, k)
    for i in range(N):
        for j in range(i + 1):
            embedding = position.table[:, min(i - j + 1, npos - 1)]
            assert torch.allclose(found[0, :, i, j], q[0, :, i] @ embedding / D**0.5)
    q, k = facing(-1.0)
    row = bias(position, q, k)
    assert torch.allclose(row, (q @ position.table[:, :1] / D**0.5).expand_as(row))


def test_half_open_gates_read_between_two_embeddings():
    position = stirred(npos=8)
    q, k = torch.randn(2, 1, 1, N, D, dtype=torch.float64)
    k.zero_()  # every gate is one half
    found = bias(position, q, k)[0, 0]
    whole = q[0, 0] @ position.table / D**0.5
    assert torch.allclose(found[4, 4], (whole[4, 0] + whole[4, 1]) / 2)
    assert torch.allclose(found[4, 3], whole[4, 1])
    assert torch.allclose(found[4, 0], (whole[4, 2] + whole[4, 3]) / 2)


def test_one_embedding_adds_the_same_to_a_querys_scores():
    q, k = torch.randn(2, 1, 2, N, D, dtype=torch.float64)
    found = bias(stirred(npos=1), q, k)
    assert torch.allclose(found, found[..., :1].expand_as(found))


def test_settings_scale_gates_and_embeddings():
    q, k = torch.randn(2, 1, 2, N, D, dtype=torch.float64)
    assert torch.allclose(bias(stirred(div=False), q, k), bias(stirred(), q, k) * D**0.5)
    # Gates of k twice as large at half the scale are the same gates.
    assert torch.allclose(bias(stirred(gate_scale=0.5), q, 2 * k), bias(stirred(gate_scale=1.0), q, k))
    assert not torch.allclose(bias(stirred(gate_scale=0.5), q, k), bias(stirred(gate_scale=1.0), q, k), rtol=1e-3)


def test_gates_are_learned_through_the_count():
    q, k = (x.requires_grad_() for x in torch.randn(2, 1, 1, N, D, dtype=torch.float64).unbind())
    (slope,) = torch.autograd.grad(bias(stirred(), q, k)[..., -1, 0].sum(), k)
    assert (slope.abs().amax(-1) > 0).all()  # every key up to the query is counted


def test_positions_join_at_whole_numbers():
    position = stirred(npos=8)
    q, noise = torch.randn(2, 1, 1, N, D, generator=torch.Generator().manual_seed(4), dtype=torch.float64)

    def at(product: float) -> Tensor:
        """Row 3, whose gates are all sigmoid(product), so that its positions are 1 to 4 times that."""
        k = noise * 0 + q[:, :, 3:4] / q[0, 0, 3].square().sum() * product * D**0.5
        return bias(position, q, k)[0, 0, 3, :4]

    below, here, above = at(-1e-7), at(0.0), at(1e-7)
    whole = q[0, 0, 3] @ position.table / D**0.5
    assert torch.allclose(here[2], whole[1])  # two keys, each half counted
    for near in (below, above):
        assert torch.allclose(near, here, atol=1e-6)
    # The slope does change there: embeddings are joined by lines.
    assert not torch.allclose(above - here, here - below, rtol=1e-2, atol=1e-10)


def test_gates_with_keys_of_their_own_count_something_else():
    plain, own = stirred(), stirred(sep_key=True)
    q, k = torch.randn(2, 1, 2, N, D, dtype=torch.float64)
    assert sum(p.numel() for p in own.parameters()) - sum(p.numel() for p in plain.parameters()) == D * D
    with torch.no_grad():
        own.table.copy_(plain.table)
        own.gate.weight.copy_(torch.eye(D))
        assert torch.allclose(bias(own, q, k), bias(plain, q, k))
        own.gate.weight.zero_()  # every gate is one half, whatever the keys are
    assert torch.allclose(bias(own, q, k), bias(plain, q, torch.zeros_like(k)))


def test_ordinary_distances_are_added_and_the_last_serves_all_beyond():
    plain, both = stirred(), stirred(relative=3)
    q, k = torch.randn(2, 1, 2, N, D, dtype=torch.float64)
    with torch.no_grad():
        both.table.copy_(plain.table)
        both.distances.normal_()
    added = bias(both, q, k) - bias(plain, q, k)
    for i in range(N):
        for j in range(i + 1):
            want = q[0, :, i] @ both.distances[:, min(i - j, 2)] / D**0.5
            assert torch.allclose(added[0, :, i, j], want)


def test_open_gates_are_ordinary_distances_counted_from_one():
    q, k = facing(1.0)
    counting, far = stirred(npos=4), stirred(npos=1, relative=3)
    with torch.no_grad():
        far.table.zero_()
        far.distances.copy_(counting.table[:, 1:])
    order = torch.ones(N, N).tril().bool()
    assert torch.allclose(bias(counting, q, k)[..., order], bias(far, q, k)[..., order])


def test_layers_given_the_same_module_share_its_embeddings():
    shared = CoPE(4)
    model = torch.nn.ModuleList(Attention(8, 2, position=shared) for _ in range(2))
    assert sum(p is shared.table for p in model.parameters()) == 1


def test_gates_from_values_are_what_gates_are_of_keys_that_equal_values():
    torch.manual_seed(0)
    layer, other = create("cope_values", dim=12, heads=2).double(), create("cope", dim=12, heads=2).double()
    x = torch.randn(2, N, 12, dtype=torch.float64)
    with torch.no_grad():
        layer.get_parameter("mixer.table").normal_()
        other.get_parameter("position.table").copy_(layer.get_parameter("mixer.table"))
        layer.get_parameter("projection.v.weight").copy_(layer.get_parameter("projection.k.weight"))
        for name, parameter in other.named_parameters():
            if not name.startswith("position"):
                parameter.copy_(layer.get_parameter(name))
        assert torch.allclose(layer(x, causal=True), other(x, causal=True))
        layer.get_parameter("projection.v.weight").normal_()
        other.get_parameter("projection.v.weight").copy_(layer.get_parameter("projection.v.weight"))
        assert not torch.allclose(layer(x, causal=True), other(x, causal=True), rtol=1e-3)


def test_values_that_are_counted_are_read_as_the_formula_says():
    torch.manual_seed(3)
    mixer = CoPEFromValues(D, npos=3).double()
    q, k, v = torch.randn(3, 1, 1, 4, D, dtype=torch.float64)
    with torch.no_grad():
        mixer.table.normal_()
    out = mixer(q, k, v, Call(tokens=q[:, 0], memory=k[:, 0], causal=True))
    rows = []
    for i in range(4):
        scores = []
        for j in range(i + 1):
            place = min(sum(float(torch.sigmoid(q[0, 0, i] @ v[0, 0, u] / D**0.5)) for u in range(j, i + 1)), 2.0)
            low = math.floor(place)
            entry = mixer.table[:, low] * (1 - place + low) + mixer.table[:, min(low + 1, 2)] * (place - low)
            scores.append(q[0, 0, i] @ (k[0, 0, j] + entry) / D**0.5)
        rows.append(torch.stack(scores).softmax(0) @ v[0, 0, : i + 1])
    assert torch.allclose(out[0, 0], torch.stack(rows))


def test_heads_of_another_width_are_refused():
    q, k = torch.randn(2, 1, 2, N, 4)
    with pytest.raises(ShapeError, match=r"width 6; got queries of width 4. Type CoPE\(head_dim=4\)"):
        CoPE(6).edits(q, k, Call(tokens=q, memory=k, causal=True))
    with pytest.raises(ShapeError, match="width 6; got 4 and 4"):
        CoPEFromValues(6)(q, k, k, Call(tokens=q, memory=k, causal=True))


def test_one_table_serves_all_heads_and_must_have_an_entry():
    assert {name: p.shape for name, p in CoPE(8, npos=5).named_parameters()} == {"table": (8, 5)}
    with pytest.raises(ValueError, match="npos must be at least 1; got 0"):
        CoPE(8, npos=0)
    with pytest.raises(ValueError, match="npos must be at least 1; got 0"):
        CoPEFromValues(8, npos=0)
    with pytest.raises(ValueError, match="relative must be at least 0; got -1"):
        CoPE(8, relative=-1)


def test_order_of_both_sides_is_refused():
    with pytest.raises(NotImplementedError, match="CoPE is defined for causal attention only. Type causal=True"):
        create("cope", dim=8, heads=2)(torch.randn(1, 4, 8))
