"""Masks one by one: small examples written out, wrong settings, how they print, when they are equal."""

from __future__ import annotations

import pytest
import torch

from regard import masks
from regard.errors import ShapeError
from regard.masks import FULL, PARTIAL, causal, everything, sinks, window


def drawn(mask: masks.Mask, N: int, M: int | None = None, **where) -> list[str]:
    return ["".join(".x"[int(seen)] for seen in row) for row in mask.dense(N, M, **where)[0, 0]]


@pytest.mark.parametrize(
    ("mask", "picture"),
    [
        (everything, ["xxxx", "xxxx", "xxxx", "xxxx"]),
        (causal(), ["x...", "xx..", "xxx.", "xxxx"]),
        (window(2), ["x...", "xx..", ".xx.", "..xx"]),
        (window(1, ahead=1), ["xx..", ".xx.", "..xx", "...x"]),
        (sinks(1), ["x...", "x...", "x...", "x..."]),
        (causal() | masks.prefix(2), ["xx..", "xx..", "xxx.", "xxxx"]),
        (masks.documents([7, 7, 3, 3]), ["xx..", "xx..", "..xx", "..xx"]),
        (masks.chunks(3), ["xxx.", "xxx.", "xxx.", "...x"]),
        (masks.dilated(2, 2), ["x...", ".x..", "x.x.", ".x.x"]),
        (masks.strided(2), ["x.x.", ".x.x", "x.x.", ".x.x"]),
        (masks.power(), ["x...", "xx..", "xxx.", ".xxx"]),
        (masks.neighbourhood(4, 3), ["xxx.", "xxx.", ".xxx", ".xxx"]),
        (masks.neighbourhood((2, 2), (1, 2)), ["xx..", "xx..", "..xx", "..xx"]),
        (masks.blocks(torch.tensor([[True, False], [True, True]]), 2), ["xx..", "xx..", "xxxx", "xxxx"]),
        (masks.blocks(torch.tensor([[True, False]]), (3, 1)), ["x...", "x...", "x...", "...."]),
        (masks.keys(torch.tensor([[0, 3], [-1, 1]]), start=1), ["....", "x..x", ".x..", "...."]),
        (causal() & (window(1) | sinks(1)), ["x...", "xx..", "x.x.", "x..x"]),
        (~causal(), [".xxx", "..xx", "...x", "...."]),
    ],
)
def test_pictures(mask, picture):
    assert drawn(mask, 4) == picture


def test_queries_are_the_last_of_the_keys():
    assert drawn(causal(), 2, 4) == ["xxx.", "xxxx"]


def test_queries_before_the_first_key_are_empty_slots():
    assert drawn(causal(), 4, 2) == ["..", "..", "x.", "xx"]
    plan = causal().tiles(4, 2, 2)
    assert plan.status.tolist() == [[[[0], [PARTIAL]]]]
    assert everything.tiles(4, 2, 2).status.tolist() == [[[[0], [FULL]]]]
    assert everything.tiles(4, 3, 2).status.tolist() == [[[[PARTIAL, PARTIAL], [FULL, FULL]]]]
    assert causal().count(4, 2) == 3


def test_negative_positions_see_nothing_and_are_not_seen():
    q, k = torch.tensor([-1, 5, 0]), torch.tensor([3, -7, 0, 9])
    assert drawn(everything, 3, 4, q_positions=q, k_positions=k) == ["....", "x.xx", "x.xx"]
    assert drawn(causal(), 3, 4, q_positions=q, k_positions=k) == ["....", "x.x.", "..x."]


def test_per_head():
    mask = masks.per_head([causal(), window(1), ~causal()])
    seen = mask.dense(4)
    assert seen.shape == (1, 3, 4, 4)
    for head, part in enumerate((causal(), window(1), ~causal())):
        assert torch.equal(seen[0, head], part.dense(4)[0, 0])
    assert masks.per_head([causal()]) == causal()


@pytest.mark.parametrize(
    "mask",
    [
        causal() & (window(2) | sinks(1)),
        masks.neighbourhood((2, 2), 2),
        masks.keys(torch.tensor([[1]])),
        masks.documents([1, 1]),
        masks.blocks(torch.ones(1, 1).bool(), 2),
        masks.power(),
        masks.predicate(lambda b, h, i, j: i == j),
    ],
)
def test_nothing_to_see(mask):
    for N, M in ((0, 4), (4, 0), (0, 0)):
        plan = mask.tiles(N, M, 2)
        assert plan.status.shape == (1, 1, -(-N // 2), -(-M // 2))
        assert plan.count() == 0
        assert plan.patterns.shape == (0, 2, 2)
        assert plan.density() == 0
        assert mask.dense(N, M).shape == (1, 1, N, M)


def test_documents_may_have_any_numbers():
    far = 2**63
    for ids in ([far - 1, far - 1, -far, -far], [-far, -far, far - 1, far - 1], [-far + 1, 5, 5, -far + 1]):
        mask = masks.documents(torch.tensor(ids))
        expected = [["x" if i < 4 and j < 4 and ids[i] == ids[j] else "." for j in range(5)] for i in range(5)]
        assert drawn(mask, 5) == ["".join(row) for row in expected]
        assert mask.count(5, size=2) == sum(row.count("x") for row in expected)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (
            lambda: window(0),
            ValueError,
            "size must be at least 1 (it counts the query's own position); got 0.",
        ),
        (lambda: window(4, ahead=-1), ValueError, "window's ahead must be at least 0; got -1."),
        (lambda: sinks(-1), ValueError, "sinks' count must be at least 0; got -1."),
        (lambda: masks.prefix(-2), ValueError, "prefix's length must be at least 0; got -2."),
        (lambda: masks.chunks(0), ValueError, "chunks' size must be at least 1; got 0."),
        (lambda: masks.dilated(0, 1), ValueError, "dilated's window must be at least 1"),
        (lambda: masks.dilated(1, 0), ValueError, "dilated's step must be at least 1; got 0."),
        (lambda: masks.strided(0), ValueError, "strided's step must be at least 1; got 0."),
        (lambda: masks.power(0), ValueError, "power's block must be at least 1; got 0."),
        (lambda: masks.power(1, 0), ValueError, "power's window must be at least 1; got 0."),
        (lambda: masks.power(1, 1, -1), ValueError, "power's sinks must be at least 0; got -1."),
        (lambda: masks.documents(torch.ones(3)), ValueError, "documents' ids must be integers; got torch.float32."),
        (lambda: masks.documents(torch.ones(1, 1, 3).long()), ShapeError, "must be [T] or [B, T]; got [1, 1, 3]."),
        (
            lambda: masks.blocks(torch.ones(2, 2), 4),
            ValueError,
            "boolean; got torch.float32. Use tile_map > 0.",
        ),
        (
            lambda: masks.blocks(torch.ones(2).bool(), 4),
            ShapeError,
            "[H, Tq, Tk] or [B, H, Tq, Tk]; got [2].",
        ),
        (lambda: masks.blocks(torch.ones(2, 2).bool(), 0), ValueError, "blocks' size must be at least 1; got 0."),
        (lambda: masks.keys(torch.ones(2, 2)), ValueError, "keys' index must be integers; got torch.float32."),
        (lambda: masks.keys(torch.ones(2).long()), ShapeError, "[n, k], [B, n, k] or [B, H, n, k]; got [2]."),
        (lambda: masks.keys(torch.ones(2, 2).long(), -1), ValueError, "keys' start must be at least 0; got -1."),
        (lambda: masks.per_head([]), ValueError, "Type per_head([causal(), window(64)])."),
        (lambda: masks.per_head([causal(), 3]), ValueError, "per_head's masks must be masks; got int."),
        (lambda: masks.predicate(3), ValueError, "predicate needs a function (b, h, i, j) -> bool; got int."),
        (lambda: masks.neighbourhood((4, 4), 3, stride=4), ValueError, "stride must be at most its window; got 4 > 3"),
        (lambda: masks.neighbourhood(4, 3, dilation=2), ValueError, "at most the length; got 3 * 2 > 4 on axis 0."),
        (lambda: masks.neighbourhood(4, 1, stride=2), ValueError, "stride must be at most its window"),
        (
            lambda: masks.neighbourhood((4, 4), (3, 3, 3)),
            ValueError,
            "must be one value or 2, one for each axis",
        ),
        (lambda: masks.neighbourhood((2, 2, 2, 2), 1), ValueError, "must have 1 to 3 axes of at least 1"),
        (lambda: masks.neighbourhood((4, 4), 0), ValueError, "window must be at least 1; got 0 on axis 0."),
        (lambda: causal().tiles(4, 4, 0), ValueError, "A tile's size must be at least 1; got (0, 0)."),
        (lambda: causal().tiles(-1), ValueError, "N and M must be at least 0"),
        (
            lambda: causal().dense(2, q_positions=torch.ones(2)),
            ValueError,
            "q_positions must be integers; got torch",
        ),
        (lambda: causal().tiles(2, k_positions=torch.ones(3).long()), ShapeError, "k_positions must be [2], [B, 2] or"),
        (
            lambda: masks.per_head([causal(), window(2)]).tiles(4, heads=3),
            ShapeError,
            "The heads axes differ: heads=3, the mask has 2. Give all the same size, or 1.",
        ),
        (
            lambda: masks.per_head([causal(), window(2)]).dense(4, q_positions=torch.ones(1, 3, 4).long()),
            ShapeError,
            "The heads axes differ: the mask has 2, q_positions has 3.",
        ),
        (
            lambda: masks.documents(torch.ones(3, 4).long()).tiles(4, batch=2),
            ShapeError,
            "The batch axes differ: batch=2, the mask has 3.",
        ),
        (
            lambda: (masks.per_head([causal()] * 2) & masks.per_head([causal()] * 3)).tiles(4),
            ShapeError,
            "Masks differ in their head axes: per_head([causal(), causal()]) has 2 and",
        ),
    ],
)
def test_wrong_settings_say_what_to_do(make, error, text):
    with pytest.raises(error) as caught:
        make()
    assert text in str(caught.value)


def test_a_predicate_must_return_booleans():
    with pytest.raises(TypeError, match=r"must return booleans; got torch.int64. Compare, for example with j <= i."):
        masks.predicate(lambda b, h, i, j: i - j).dense(4)
    with pytest.raises(TypeError, match="got bool"):
        masks.predicate(lambda b, h, i, j: True).tiles(4)


def test_a_predicate_must_not_branch():
    def branching(b, h, i, j):
        return i if i > j else j

    with pytest.raises(RuntimeError, match=r"predicate\(branching\) branches on its index tensors; use torch.where"):
        masks.predicate(branching).tiles(4)


@pytest.mark.parametrize(
    "text",
    [
        "everything",
        "causal()",
        "window(4)",
        "window(4, ahead=2)",
        "sinks(3)",
        "prefix(9)",
        "chunks(5)",
        "dilated(3, 2)",
        "strided(7)",
        "power(block=2, window=3, sinks=1)",
        "(causal() & (window(8) | ~sinks(4)))",
        "per_head([causal(), window(4)])",
        "neighbourhood((4, 6), window=(3, 2), stride=(1, 2), dilation=(1, 3), causal=(False, True))",
    ],
)
def test_a_repr_is_what_to_type(text):
    mask = eval(text, vars(masks))
    assert repr(mask) == text
    assert eval(repr(mask), vars(masks)) == mask


def test_masks_of_numbers_are_equal_when_their_numbers_are():
    assert causal() & (window(4) | sinks(2)) == causal() & (window(4) | sinks(2))
    assert hash(masks.power(2, 3)) == hash(masks.power(2, 3))
    assert window(4) != window(5)
    assert masks.documents([1, 1]) != masks.documents([1, 1])
    assert causal().structural
    assert masks.per_head([causal(), ~window(2)]).structural
    assert not (causal() & masks.documents([1, 1])).structural
    assert not masks.predicate(lambda b, h, i, j: i == j).structural


def test_cached_plans():
    mask = causal() & (window(40) | sinks(4))
    plan = masks.cached_tiles(mask, 100, size=16)
    assert masks.cached_tiles(causal() & (window(40) | sinks(4)), 100, size=16) is plan
    assert masks.cached_tiles(mask, 101, size=16) is not plan
    assert torch.equal(plan.status, mask.tiles(100, size=16).status)
    packed = causal() & masks.documents([0] * 100)
    assert masks.cached_tiles(packed, 100, size=16) is not masks.cached_tiles(packed, 100, size=16)
