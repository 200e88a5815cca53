"""Sparse query attention: its variants, its cost, and making one of a trained layer."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import regard
from regard.errors import ShapeError
from regard.layers import Attention
from regard.mechanisms.heads import GQA, MHA, SQA
from regard.testing import operations


@pytest.mark.parametrize(
    ("settings", "heads"),
    [
        ({"variant": "sqa"}, (8, 4)),
        ({"variant": "ssqa"}, (8, 8)),
        ({"variant": "xsqa"}, (4, 4)),
        ({"variant": "xsmqa"}, (4, 1)),
        ({"variant": "lsqa"}, (12, 4)),
        ({"reverse": True}, (4, 8)),
        ({"q_heads": 6}, (6, 3)),
        ({"q_heads": 3, "kv_heads": 9, "reverse": True}, (3, 9)),
    ],
)
def test_heads_of_a_variant(settings: dict[str, object], heads: tuple[int, int]) -> None:
    part = SQA(64, 16, **settings)  # type: ignore[arg-type]
    assert (part.q_heads, part.kv_heads, part.heads, part.head_dim) == (*heads, max(heads), 4)


@pytest.mark.parametrize("variant", ["sqa", "ssqa", "xsqa", "xsmqa", "lsqa"])
@pytest.mark.parametrize("H", [1, 2, 3, 4, 6, 8])
def test_every_variant_of_any_number_of_heads_can_be_used(variant: str, H: int) -> None:
    layer = regard.create("sqa", dim=8 * H, heads=H, variant=variant)
    assert layer(torch.randn(1, 3, 8 * H)).shape == (1, 3, 8 * H)


@pytest.mark.parametrize("settings", [{}, {"variant": "ssqa"}, {"variant": "lsqa"}, {"q_heads": 8, "kv_heads": 2}])
def test_parameters_and_operations_are_those_of_the_formula(settings: dict[str, object]) -> None:
    C, H, D, N = 32, 8, 4, 24
    layer = regard.create("sqa", dim=C, heads=H, **settings)
    part = layer.projection
    assert isinstance(part, SQA)
    assert sum(p.numel() for p in layer.parameters()) == C * D * (2 * part.q_heads + 2 * part.kv_heads)
    maps = 2 * 3 * N * C * D * (2 * part.q_heads + 2 * part.kv_heads)
    assert part.flops(N, batch=3) == maps + 4 * 3 * part.q_heads * N * N * D
    assert operations(lambda: layer(torch.randn(3, N, C))) == part.flops(N, batch=3)
    assert operations(lambda: layer(torch.randn(3, N, C), torch.randn(3, 10, C))) == part.flops(N, 10, batch=3)


def test_symmetric_equals_torch_with_half_the_heads() -> None:
    torch.manual_seed(0)
    layer, x = regard.create("sqa", dim=32, heads=8, variant="ssqa"), torch.randn(2, 9, 32)
    q, k, v = (x @ getattr(layer.projection, n).weight.T for n in "qkv")
    q, k, v = (t.view(2, 9, 4, 4).transpose(1, 2) for t in (q, k, v))
    want = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2) @ layer.merge.out.weight.T
    torch.testing.assert_close(layer(x, causal=True), want)


def test_reversed_query_heads_are_read_by_neighbouring_key_heads() -> None:
    torch.manual_seed(0)
    layer, x = regard.create("sqa", dim=32, heads=8, q_heads=2, kv_heads=4, reverse=True), torch.randn(2, 9, 32)
    p = layer.projection
    q, k, v = x @ p.q.weight.T, x @ p.k.weight.T, x @ p.v.weight.T
    outs = []
    for h in range(4):
        query = q[..., h // 2 * 4 : h // 2 * 4 + 4]
        weights = (query @ k[..., 4 * h : 4 * h + 4].transpose(1, 2) / 2).softmax(-1)
        outs.append(weights @ v[..., 4 * h : 4 * h + 4])
    torch.testing.assert_close(layer(x), torch.cat(outs, -1) @ layer.merge.out.weight.T)


@pytest.mark.parametrize(("kind", "groups"), [(MHA, 8), (GQA, 4), (GQA, 2)])
def test_made_of_a_layer_whose_neighbouring_heads_are_equal_it_equals_it(kind: type, groups: int) -> None:
    torch.manual_seed(0)
    part = MHA(32, 8, bias=True) if kind is MHA else GQA(32, 8, kv_heads=groups, bias=True)
    for name, count in (("q", 8), ("k", groups), ("v", groups)):
        for p in getattr(part, name).parameters():
            alike = count > 4 or name == "q"  # heads that will be averaged
            p.data = nn.init.normal_(torch.empty(p.numel())).view_as(p)
            if alike:
                p.data = p.data.unflatten(0, (-1, 2, 4))[:, :1].expand(-1, 2, -1, *p.shape[1:]).reshape(p.shape)
    whole = Attention(32, 8, projection=part)
    made, weight = SQA.from_projection(part, whole.merge.out.weight.data, 4)
    assert (made.q_heads, made.kv_heads) == (4, min(groups, 4))
    few = Attention(32, 8, projection=made)
    few.merge.out.weight.data = weight
    x = torch.randn(2, 7, 32)
    torch.testing.assert_close(few(x, causal=True), whole(x, causal=True))


def test_averages_are_of_neighbours() -> None:
    part = MHA(8, 4)
    made, weight = SQA.from_projection(part, torch.arange(8.0)[None], 2)
    assert weight.tolist() == [[0 + 2, 1 + 3, 4 + 6, 5 + 7]]
    torch.testing.assert_close(made.q.weight[:2], (part.q.weight[:2] + part.q.weight[2:4]) / 2)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"variant": "zsqa"}, "must be one of 'sqa'"),
        ({"q_heads": 9}, "SQA.q_heads must be from 1 to heads=8; got 9"),
        ({"q_heads": 0}, "SQA.q_heads must be from 1 to heads=8; got 0"),
        ({"q_heads": 6, "kv_heads": 4}, "SQA.q_heads=6 is not a multiple of kv_heads=4. Type kv_heads=3."),
        ({"q_heads": 2, "kv_heads": 4}, "Type kv_heads=2, or reverse=True."),
        ({"q_heads": 3, "kv_heads": 4, "reverse": True}, "SQA.kv_heads=4 is not a multiple of q_heads=3"),
    ],
)
def test_heads_that_do_not_fit_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said.replace(".", r"\.")):
        SQA(32, 8, **settings)  # type: ignore[arg-type]


def test_widths_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="not a multiple of heads=5"):
        SQA(32, 5)
    with pytest.raises(ShapeError, match=r"a merge \[C, 32\]"):
        SQA.from_projection(MHA(32, 8), torch.zeros(32, 16), 4)
    with pytest.raises(ValueError, match="SQA.q_heads=3 must divide the 8 there are. Type 2."):
        SQA.from_projection(MHA(32, 8), torch.zeros(32, 32), 3)
