"""CoPE: what its gates count."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.layers import create
from regard.mechanisms import Call
from regard.mechanisms.positions import CoPE
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


def test_one_table_serves_all_heads_and_must_have_an_entry():
    assert {name: p.shape for name, p in CoPE(8, npos=5).named_parameters()} == {"table": (8, 5)}
    with pytest.raises(ValueError, match="npos must be at least 1; got 0"):
        CoPE(8, npos=0)


def test_order_of_both_sides_is_refused():
    with pytest.raises(NotImplementedError, match="CoPE is defined for causal attention only. Type causal=True"):
        create("cope", dim=8, heads=2)(torch.randn(1, 4, 8))
