"""Which engine runs: each refuses exactly what it can't do, `auto` takes the cheapest, and `explain` says why."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from regard import masks
from regard.edits import ALiBi, Bias, Sigmoid, Softcap, SoftmaxWithSinks
from regard.errors import EngineRefused
from regard.ops import Engine, RowBlocks, View, attend, explain
from regard.ops.choose import ENGINES
from tests.ops.cases import Shape, tensors

SMALL, LARGE = Shape(1, 2, 1, 70, 70, 16, 16), Shape(1, 1, 1, 3000, 3000, 16, 16)
WINDOW = masks.causal() & masks.window(20)

ROWS = "something reads or edits the attention weights, which this engine never holds"
STATE = "a State is only defined for plain softmax; add the sinks after merging"
SIGMOID = "Sigmoid is not a function of the log-sum-exp"
NO_LSE = "FlexAttention gives no log-sum-exp on the CPU"
NO_BACKWARD = "FlexAttention has no backward pass on the CPU"
LSE_GRAD = "the log-sum-exp carries no gradient"
EXTRA = "an edit or the normaliser needs a gradient"
CURVE = "an edit is not additive"
CURVE_GRAD = "an edit that is not additive has no gradient here"
EMPTY = "torch's kernels do not take empty inputs"
FLEX_EMPTY = "there is nothing to compile for empty inputs"


def _sinks(grad: bool = False) -> SoftmaxWithSinks:
    return SoftmaxWithSinks(torch.zeros(2, requires_grad=grad))


def _bias(grad: bool) -> Bias:
    return Bias(torch.zeros(70, requires_grad=grad))


def _other() -> list[View]:
    return [View(masks.sinks(2), tensors(SMALL, torch.float32)[0])]


# What is asked, with gradients or without, and every reason that each engine must give; an engine not named must run.
ASKED: dict[str, tuple[dict, bool, dict[str, list[str]]]] = {
    "causal": ({"where": masks.causal()}, False, {}),
    "causal_grad": ({"where": masks.causal()}, True, {"flex": [NO_BACKWARD]}),
    "window": ({"where": WINDOW}, False, {}),
    "window_grad": ({"where": WINDOW}, True, {"flex": [NO_BACKWARD]}),
    "reader": ({"rows": lambda rows: None}, False, {"tiles": [ROWS], "sdpa": [ROWS], "flex": [ROWS]}),
    "state": ({"state": True}, False, {"flex": [NO_LSE]}),
    "state_grad": ({"state": True, "where": WINDOW}, True, {"sdpa": [LSE_GRAD], "flex": [NO_BACKWARD, NO_LSE]}),
    "sinks": ({"normaliser": _sinks()}, False, {"flex": [NO_LSE]}),
    "sinks_grad": ({"normaliser": _sinks(True)}, False, {"sdpa": [EXTRA], "flex": [NO_BACKWARD, NO_LSE]}),
    "sinks_all_grad": (
        {"normaliser": _sinks(True)},
        True,
        {"sdpa": [EXTRA, LSE_GRAD], "flex": [NO_BACKWARD, NO_LSE]},
    ),  # fmt: skip
    "sinks_state": (
        {"normaliser": _sinks(), "state": True},
        False,
        {"reference": [STATE], "rows": [STATE], "tiles": [STATE], "sdpa": [STATE], "flex": [STATE, NO_LSE]},
    ),  # fmt: skip
    "sigmoid": ({"normaliser": Sigmoid()}, False, {"tiles": [SIGMOID], "sdpa": [SIGMOID], "flex": [SIGMOID, NO_LSE]}),
    "alibi": ({"edits": [ALiBi(heads=2)], "where": WINDOW}, False, {}),
    "alibi_grad": ({"edits": [ALiBi(heads=2)], "where": WINDOW}, True, {"flex": [NO_BACKWARD]}),
    "softcap": ({"edits": [Softcap(2.0)]}, False, {"sdpa": [CURVE]}),
    "softcap_grad": (
        {"edits": [Softcap(2.0)]},
        True,
        {"tiles": [CURVE_GRAD], "sdpa": [CURVE], "flex": [NO_BACKWARD]},
    ),  # fmt: skip
    "bias_learned": (
        {"edits": [_bias(True)]},
        False,
        {"tiles": ["an edit needs a gradient"], "sdpa": [EXTRA], "flex": [NO_BACKWARD]},
    ),  # fmt: skip
    "bias_fixed": ({"edits": [_bias(False)]}, False, {}),
    "views": ({"views": _other()}, False, {"flex": [NO_LSE]}),
    "views_grad": ({"views": _other()}, True, {"sdpa": [LSE_GRAD], "flex": [NO_BACKWARD, NO_LSE]}),
}


@pytest.mark.parametrize("asked", ASKED)
def test_each_engine_refuses_exactly_what_it_cannot_do(asked):
    settings, grad, reasons = ASKED[asked]
    q, k, v = (t.requires_grad_(grad) for t in tensors(SMALL, torch.float32))
    for name in ENGINES:
        if name in reasons:
            with pytest.raises(EngineRefused) as caught:
                attend(q, k, v, engine=name, **settings)
            assert (caught.value.engine, caught.value.reasons) == (name, reasons[name])
            assert (
                str(caught.value) == f"Engine {name!r} can't run this: {'; '.join(reasons[name])}. Use engine='auto'."
            )
        elif name != "flex":
            attend(q, k, v, engine=name, **settings)
    if len(reasons) < len(ENGINES):
        told = explain(q, k, v, **settings)
        assert told.engine not in reasons
        assert set(told.others) == set(ENGINES) - {told.engine}
        for name, given in told.others.items():
            assert given == reasons.get(name, [f"{told.engine} is cheaper"])
        assert told.why
        assert str(told).splitlines() == [
            f"{told.engine}: {told.why}", *(f"not {name}: {'; '.join(told.others[name])}" for name in told.others)
        ]  # fmt: skip


def test_without_gradients_wanted_learned_tensors_are_no_obstacle():
    q, k, v = (t.requires_grad_() for t in tensors(SMALL, torch.float32))
    with torch.no_grad():
        assert explain(q, k, v, edits=[_bias(True)]).engine == "sdpa"
        attend(q, k, v, edits=[_bias(True)], engine="tiles")


def test_flex_says_what_it_does_not_compile():
    def reasons(s: Shape, dtype: torch.dtype = torch.float32) -> list[str]:
        return explain(*tensors(s, dtype), where=masks.causal()).others["flex"]

    assert reasons(SMALL, torch.float64) == ["float64 is not compiled"]
    assert reasons(Shape(1, 1, 1, 5, 5, 8, 16)) == ["head widths below 16 are not compiled"]
    assert reasons(Shape(1, 1, 1, 5, 5, 16, 8)) == ["head widths below 16 are not compiled"]
    assert reasons(Shape(1, 1, 1, 0, 5, 16, 16)) == [FLEX_EMPTY]
    assert reasons(SMALL) == ["sdpa is cheaper"]


def test_flex_without_a_compiler_says_so(monkeypatch):
    from regard.ops import flex

    monkeypatch.setattr(flex, "_compiler", lambda: None)
    (reason,) = explain(*tensors(SMALL, torch.float32), where=WINDOW).others["flex"]
    assert reason == "compiling for the CPU needs a C++ compiler (such as g++) on the PATH"


def test_the_log_sum_exp_of_sdpa_needs_values_as_wide_as_keys():
    narrow = tensors(Shape(1, 1, 1, 9, 9, 16, 8), torch.float32)
    assert explain(*narrow, state=True).others["sdpa"] == ["the log-sum-exp needs values as wide as keys"]
    assert explain(*narrow).engine == "sdpa"


@pytest.mark.parametrize(
    ("settings", "engine"),
    [
        ({}, "sdpa"),
        ({"where": masks.causal()}, "sdpa"),
        ({"where": WINDOW}, "tiles"),
        ({"where": WINDOW, "sinks": torch.zeros(1)}, "tiles"),
        ({"where": masks.causal(), "edits": [Softcap(1.0)]}, "tiles"),
        ({"where": masks.causal(), "k_positions": torch.arange(3000).flip(0)}, "tiles"),
        ({"where": masks.causal(), "normaliser": Sigmoid()}, "rows"),
        ({"where": WINDOW, "rows": lambda rows: None}, "rows"),
    ],
)
def test_auto_takes_the_cheapest_engine_for_a_long_sequence(settings, engine):
    told = explain(*tensors(LARGE, torch.float32), **settings)
    assert told.engine == engine
    if engine == "tiles" and "edits" not in settings:
        written = "the mask would be written out dense (3000 x 3000); engine='tiles' does not"
        assert written in told.others["sdpa"]


def test_auto_runs_what_it_explains(monkeypatch):
    q, k, v = tensors(SMALL, torch.float32)
    ran = []
    for name, engine in ENGINES.items():
        kind, run = type(engine), type(engine).run
        monkeypatch.setattr(kind, "run", lambda self, p, run=run, name=name: ran.append(name) or run(self, p))
    asked: list[dict[str, Any]] = [{"where": masks.causal()}, {"edits": [Softcap(1.0)]}, {"normaliser": Sigmoid()}]
    for settings in asked:
        told = explain(q, k, v, **settings)
        assert not ran
        attend(q, k, v, **settings)
        assert ran.pop() == told.engine


def test_nothing_can_give_a_state_with_sinks():
    q, k, v = tensors(SMALL)
    for ask in (attend, explain):
        with pytest.raises(EngineRefused, match="a State is only defined for plain softmax"):
            ask(q, k, v, normaliser=_sinks(), state=True)


@pytest.mark.parametrize(
    ("asked", "near"), [("tile", "tiles"), ("row", "rows"), ("flexx", "flex"), ("refrence", "reference")]
)
def test_an_unknown_engine_suggests_the_nearest(asked, near):
    with pytest.raises(ValueError, match=rf"Unknown engine '{asked}'; engines are auto, .*\. Did you mean '{near}'\?"):
        attend(*tensors(SMALL), engine=asked)


def test_an_engine_unlike_any_suggests_none():
    with pytest.raises(
        ValueError, match=r"Unknown engine 'xyz'; engines are auto, reference, rows, tiles, sdpa, flex\.$"
    ):
        attend(*tensors(SMALL), engine="xyz")
    with pytest.raises(ValueError, match=r"engine must be a name or an engine such as RowBlocks\(64\); got int\."):
        attend(*tensors(SMALL), engine=5)


def test_an_engine_object_is_used_as_it_is():
    class Loud(Engine):
        name = "loud"

        def unsupported(self, problem):
            return ["it is late"] if problem.N > 70 else []

        def run(self, problem):
            return problem.q

    q, k, v = tensors(SMALL)
    assert attend(q, k, v, engine=Loud()) is q
    with pytest.raises(EngineRefused, match="Engine 'loud' can't run this: it is late"):
        attend(*tensors(Shape(1, 1, 1, 80, 80, 4, 4)), engine=Loud())
    with pytest.raises(
        EngineRefused, match="Engine 'rows' can't run this: complete rows are needed; leave RowBlocks.keys"
    ):
        attend(q, k, v, normaliser=Sigmoid(), engine=RowBlocks(keys=4))


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("engine", ["auto", "reference", "rows", "rows_7", "rows_16x30", "tiles", "sdpa"])
def test_empty_inputs_give_empty_or_zero_outputs(engine, shape):
    N, M = shape
    q, k, v = tensors(Shape(2, 4, 2, N, M, 8, 6))
    chosen = {"rows_7": RowBlocks(7), "rows_16x30": RowBlocks(16, 30)}.get(engine, engine)
    for where in (None, masks.causal(), WINDOW):
        if engine == "sdpa":
            with pytest.raises(EngineRefused, match=EMPTY):
                attend(q, k, v, where=where, engine=chosen)
            continue
        state = attend(q, k, v, where=where, state=True, engine=chosen)
        assert state.out.shape == (2, 4, N, 6)
        assert (state.out == 0).all()
        assert state.lse.shape == (2, 4, N)
        assert (state.lse == -torch.inf).all()
        assert torch.equal(attend(q, k, v, where=where, engine=chosen), state.out)
