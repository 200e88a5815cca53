"""Random problems: every engine that does not refuse one gives the oracle's answer."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from regard import masks
from regard.edits import ALiBi, Bias, Edit, Emphasis, Softcap, SoftmaxOffByOne, SoftmaxWithSinks, Temperature, softmax
from regard.errors import EngineRefused
from regard.ops import RowBlocks, State, View, attend
from tests import oracle
from tests.ops.cases import Pair, Shape, assert_equals, bound, seeded, tensors

SIZES = st.one_of(st.integers(1, 12), st.integers(60, 70), st.integers(120, 200))


@st.composite
def shapes(draw) -> Shape:
    G, of = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    D = draw(st.sampled_from([1, 4, 8]))
    return Shape(draw(st.integers(1, 2)), G * of, G, draw(SIZES), draw(SIZES), D, draw(st.sampled_from([D, D, 6])))


@st.composite
def leaf(draw, s: Shape) -> Pair:
    n = draw(st.integers(1, 90))
    most = s.M + 60
    make = seeded(n)
    lead_b, lead_h = draw(st.sampled_from([1, s.B])), draw(st.sampled_from([1, s.H]))
    table = torch.rand(lead_b, lead_h, most // 8 + 1, most // 8 + 1, generator=make) < draw(st.sampled_from([0.1, 0.6]))
    ids = torch.randint(0, 3, (lead_b, most), generator=make)
    held, packed = table.numpy(), ids.numpy()

    def of_blocks(b, h, i, j):
        return held[b if lead_b > 1 else 0, h if lead_h > 1 else 0, i // 8, j // 8]

    def of_documents(b, h, i, j):
        b = b if lead_b > 1 else 0
        return packed[b, i] == packed[b, j]

    return draw(
        st.sampled_from(
            [
                (masks.causal(), lambda b, h, i, j: j <= i),
                (masks.window(n), lambda b, h, i, j: (i - n < j) & (j <= i)),
                (masks.window(n, ahead=3), lambda b, h, i, j: (i - n < j) & (j <= i + 3)),
                (masks.sinks(n), lambda b, h, i, j: (j < n) & (i >= 0)),
                (masks.strided(n), lambda b, h, i, j: (i - j) % n == 0),
                (masks.chunks(n), lambda b, h, i, j: i // n == j // n),
                (masks.blocks(table, 8), of_blocks),
                (masks.documents(ids), of_documents),
                (masks.predicate(lambda b, h, i, j: (i + j + h) % 3 > 0), lambda b, h, i, j: (i + j + h) % 3 > 0),
            ]
        )
    )


@st.composite
def wheres(draw, s: Shape) -> Pair:
    mask, formula = draw(leaf(s))
    assert mask is not None
    for _ in range(draw(st.integers(0, 2))):
        other, second = draw(leaf(s))
        assert other is not None
        kind, first = draw(st.sampled_from(["and", "or", "not"])), formula
        if kind == "and":
            mask, formula = mask & other, lambda b, h, i, j, f=first, g=second: f(b, h, i, j) & g(b, h, i, j)
        elif kind == "or":
            mask, formula = mask | other, lambda b, h, i, j, f=first, g=second: f(b, h, i, j) | g(b, h, i, j)
        else:
            mask, formula = ~mask, lambda b, h, i, j, f=first: ~f(b, h, i, j)
    return mask, formula


@st.composite
def placed(draw, length: int, s: Shape) -> torch.Tensor | None:
    """Positions with holes, in any order, some empty, shared by heads and batch rows or not; or none given."""
    if draw(st.booleans()):
        return None
    lead = draw(st.sampled_from([(), (s.B,), (s.B, s.H), (1, s.H)]))
    return torch.randint(-10, s.M + 50, (*lead, length), generator=seeded(draw(st.integers(0, 99))))


@st.composite
def edited(draw, s: Shape) -> list[tuple[Edit, object]]:
    """Edits, each with its formula on scores and position arrays."""
    slopes = torch.rand(s.H, generator=seeded(draw(st.integers(0, 9)))).double()
    bias = torch.randn(s.H, s.N, s.M, generator=seeded(draw(st.integers(0, 9)))).double()
    all_edits = [
        (ALiBi(slopes), lambda x, i, j: x - slopes.numpy()[:, None, None] * np.abs(i - j)),
        (Bias(bias), lambda x, i, j: x + bias.numpy()),
        (Softcap(2.0), lambda x, i, j: 2 * np.tanh(x / 2)),
        (Temperature(0.7), lambda x, i, j: x / 0.7),
        (Emphasis([(2, 30)], 1.5), lambda x, i, j: x + 1.5 * ((j >= 2) & (j < 30))),
    ]
    return draw(st.lists(st.sampled_from(all_edits), max_size=3))


@settings(max_examples=120, deadline=None)
@given(st.data())
def test_engines_agree_with_the_oracle(data):
    s = data.draw(shapes(), label="shape")
    q, k, v = tensors(s, seed=data.draw(st.integers(0, 9), label="seed"))
    where, formula = data.draw(wheres(s), label="where")
    q_positions = data.draw(placed(s.N, s), label="q_positions")
    k_positions = data.draw(placed(s.M, s), label="k_positions")
    edits = data.draw(edited(s), label="edits")
    logits = torch.randn(s.H, generator=seeded(1), dtype=torch.float64)
    normaliser, sink = data.draw(
        st.sampled_from(
            [(softmax, None), (SoftmaxWithSinks(logits), logits.tolist()), (SoftmaxOffByOne(), [0.0] * s.H)]
        ),
        label="normaliser",
    )
    state = sink is None and data.draw(st.booleans(), label="state")
    views, scored = [], []
    i = oracle.places(q_positions, s.N, s.M - s.N, s.B, s.H)
    j = oracle.places(k_positions, s.M, 0, s.B, s.H)
    if data.draw(st.booleans(), label="view"):
        other, pairs = data.draw(leaf(s), label="view of")
        assert other is not None
        views, scored = [View(other, q.flip(-1))], [(oracle.visible(pairs, i, j), q.flip(-1), k)]
    curves = [lambda x, f=f: f(x, i[..., None], j[..., None, :]) for _, f in edits]
    expected = oracle.attention(
        q, k, v, oracle.visible(formula, i, j), edits=curves, normal=oracle.softmax(sink), views=scored
    )
    # Edits add at most 3 x 260 to a score, or stretch it by 3.
    atol = 3 * bound(q, k, v, torch.float64, more=800.0)
    ran = 0
    for engine in ("reference", "rows", RowBlocks(9), RowBlocks(20, 33), "tiles", "sdpa"):
        try:
            found = attend(
                q, k, v, where=where, edits=[edit for edit, _ in edits], normaliser=normaliser, state=state,
                q_positions=q_positions, k_positions=k_positions, views=views, engine=engine,
            )  # fmt: skip
        except EngineRefused:
            assert engine == "sdpa"
            continue
        ran += 1
        if isinstance(found, State):
            seen = np.isfinite(expected.lse)
            assert (found.lse[torch.from_numpy(~seen)] == -torch.inf).all()
            assert_equals(found.lse[torch.from_numpy(seen)], expected.lse[seen], atol)
        assert_equals(found.out if isinstance(found, State) else found, expected.out, atol)
    assert ran >= 5
