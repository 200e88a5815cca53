"""Wrong calls of attend say what came and what is allowed, before anything is computed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard import masks
from regard.edits import ALiBi, Bias, Emphasis, Sigmoid, Softcap, Temperature
from regard.errors import RegardError, ShapeError
from regard.ops import View, attend, explain


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


Q, K, V = zeros(2, 4, 6, 8), zeros(2, 2, 10, 8), zeros(2, 2, 10, 5)

TENSORS = {
    "axes": (zeros(4, 6, 8), K, V, "attend takes q [B, H, N, D], k [B, G, M, D], v [B, G, M, E]; got [4, 6, 8], "),
    "batch": (
        zeros(3, 4, 6, 8),
        K,
        V,
        "must agree in B, in D, and k and v in G and M; got [3, 4, 6, 8], [2, 2, 10, 8]",
    ),
    "width": (zeros(2, 4, 6, 9), K, V, "must agree in B, in D, and k and v in G and M; got [2, 4, 6, 9]"),
    "keys": (
        Q,
        zeros(2, 2, 11, 8),
        V,
        "must agree in B, in D, and k and v in G and M; got [2, 4, 6, 8], [2, 2, 11, 8]",
    ),
    "groups": (Q, zeros(2, 1, 10, 8), V, "must agree in B, in D, and k and v in G and M"),
    "heads": (zeros(2, 5, 6, 8), K, V, "The 5 query heads must be a multiple of the 2 key/value heads."),
    "no_groups": (Q, zeros(2, 0, 10, 8), zeros(2, 0, 10, 5), "The 4 query heads must be a multiple of the 0 key/value"),
    "no_width": (zeros(2, 4, 6, 0), zeros(2, 2, 10, 0), V, "q and k must be at least 1 wide; got q [2, 4, 6, 0]."),
}


@pytest.mark.parametrize("ask", [attend, explain])
@pytest.mark.parametrize("wrong", TENSORS)
def test_shapes_that_do_not_fit(wrong, ask):
    q, k, v, text = TENSORS[wrong]
    with pytest.raises(ShapeError) as caught:
        ask(q, k, v)
    assert text in str(caught.value)


@pytest.mark.parametrize(
    "dtypes",
    [(torch.int64,) * 3, (torch.float32, torch.float32, torch.bfloat16), (torch.float64, torch.float32, torch.float32)],
)
def test_dtypes_that_do_not_fit(dtypes):
    with pytest.raises(ValueError, match="q, k and v must share one floating-point dtype; got torch") as caught:
        attend(*(t.to(dtype) for t, dtype in zip((Q, K, V), dtypes, strict=True)))
    assert all(str(dtype) in str(caught.value) for dtype in dtypes)


IDS = torch.zeros(3, 10, dtype=torch.long)
SETTINGS = {
    "where": ({"where": zeros(6, 10)}, ValueError, "where must be a mask such as regard.masks.causal(), or None; got Tensor"),
    "scale": ({"scale": float("nan")}, ValueError, "scale must be finite; got nan."),
    "mask_batch": (
        {"where": masks.documents(IDS)}, ShapeError, "has batch and head axes [3, 1], which do not broadcast to B=2 and H=4",
    ),
    "mask_heads": (
        {"where": masks.per_head([masks.causal()] * 2 + [masks.window(2)])}, ShapeError, "has batch and head axes [1, 3]",
    ),
    "mask_inside": (
        {"where": masks.causal() & ~masks.blocks(torch.ones(1, 2, 3, 3, dtype=torch.bool), 4)},
        ShapeError, "has batch and head axes [1, 2]",
    ),
    "view_mask": (
        {"views": [View(masks.documents(IDS), Q)]}, ShapeError, "views[0].where=",
    ),
    "view_q": (
        {"views": [View(masks.causal(), Q[:, :2])]}, ShapeError,
        "views[0].q must be [2, 4, 6, 8] torch.float32 like the call's; got [2, 2, 6, 8] torch.float32.",
    ),
    "view_k": (
        {"views": [View(masks.causal(), Q), View(masks.sinks(1), Q, K.double())]}, ShapeError,
        "views[1].k must be [2, 2, 10, 8] torch.float32 like the call's; got [2, 2, 10, 8] torch.float64.",
    ),
    "q_positions": ({"q_positions": torch.arange(7)}, ShapeError, "q_positions must be [6], [B, 6] or [B, H, 6]; got [7]."),
    "k_positions": ({"k_positions": torch.zeros(2, 1, 1, 10, dtype=torch.long)}, ShapeError, "k_positions must be [10], "),
    "float_positions": ({"k_positions": zeros(10)}, ValueError, "k_positions must be integers; got torch.float32"),
    "positions_batch": (
        {"q_positions": torch.zeros(3, 6, dtype=torch.long)}, ShapeError, "q_positions has batch and head axes [3, 1]",
    ),
    "positions_groups": (
        {"k_positions": torch.zeros(2, 2, 10, dtype=torch.long)}, ShapeError,
        "k_positions has batch and head axes [2, 2], which do not broadcast to B=2 and H=4; give one for each, or 1.",
    ),
    "edit": ({"edits": [lambda s: s]}, ValueError, "edits must be score edits such as Softcap(50.0); got function among them."),
    "one_edit": ({"edits": Softcap(1.0)}, ValueError, "edits must be a sequence such as [Softcap(50.0)]; got Softcap."),
    "slopes": ({"edits": [ALiBi(heads=3)]}, ShapeError, "ALiBi.slopes has 3 numbers for 4 query heads; give [4]."),
    "heat": ({"edits": [Temperature(torch.ones(2))]}, ShapeError, "Temperature.t has 2 numbers for 4 query heads"),
    "emphasis": ({"edits": [Emphasis([(0, 1)], torch.ones(5))]}, ShapeError, "log_weight has 5 numbers for 4 query heads"),
    "bias": ({"edits": [Bias(zeros(6, 9))]}, ShapeError, "Bias.values [1, 1, 6, 9] do not broadcast to [B, H, N, M] = [2, 4, 6, 10]"),
    "normaliser": ({"normaliser": torch.softmax}, ValueError, "normaliser must be one such as SoftmaxOffByOne(); got builtin"),
    "sinks": ({"sinks": zeros(2)}, ShapeError, "SoftmaxWithSinks.logits has 2 numbers for 4 query heads; give [4]."),
    "sigmoid": ({"normaliser": Sigmoid(zeros(3))}, ShapeError, "Sigmoid.bias has 3 numbers for 4 query heads; give [4]."),
    "rows": ({"rows": 3}, ValueError, "rows must be a function of Rows, or None; got int."),
}  # fmt: skip


@pytest.mark.parametrize("ask", [attend, explain])
@pytest.mark.parametrize("wrong", SETTINGS)
def test_settings_that_do_not_fit(wrong, ask):
    settings, error, text = SETTINGS[wrong]
    with pytest.raises(error) as caught:
        ask(Q, K, V, **settings)
    assert text in str(caught.value)
    assert error is ValueError or isinstance(caught.value, RegardError)


def test_what_fits_by_broadcasting_is_taken():
    settings = {
        "where": masks.documents(torch.zeros(2, 10, dtype=torch.long)) & masks.per_head([masks.causal(), masks.window(2)] * 2),
        "q_positions": torch.arange(6).view(1, 6), "k_positions": torch.arange(10).expand(1, 4, 10),
        "edits": [Bias(zeros(4, 1, 10)), ALiBi(heads=4)], "sinks": zeros(4), "views": [View(masks.sinks(1), Q)],
    }  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(t.shape, generator=generator) for t in (Q, K, V))
    torch.testing.assert_close(attend(q, k, v, **settings), attend(q, k, v, engine="reference", **settings))


def test_a_mask_that_is_not_boolean_or_branches_is_explained():
    with pytest.raises(TypeError, match="must return booleans; got torch.int64"):
        attend(Q, K, V, where=masks.predicate(lambda b, h, i, j: i - j))
    with pytest.raises(RuntimeError, match=r"use torch.where, & and \| instead of if, and, or"):
        attend(Q, K, V, where=masks.predicate(lambda b, h, i, j: i > j if i > 3 else i < j))
