"""The one softmax attention."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, overload

from torch import Tensor

from regard.edits import Edit, Normaliser, SoftmaxWithSinks, softmax
from regard.masks import Mask
from regard.ops.choose import ENGINES, Explanation, choose, order
from regard.ops.engine import Engine
from regard.ops.problem import Rows, View, problem
from regard.ops.state import State


@overload
def attend(q: Tensor, k: Tensor, v: Tensor, *, state: Literal[True], **settings: object) -> State: ...
@overload
def attend(q: Tensor, k: Tensor, v: Tensor, *, state: Literal[False] = False, **settings: object) -> Tensor: ...
@overload
def attend(q: Tensor, k: Tensor, v: Tensor, *, state: bool, **settings: object) -> Tensor | State: ...


def attend(  # type: ignore[misc]
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    where: Mask | None = None,
    edits: Sequence[Edit] = (),
    scale: float | None = None,
    normaliser: Normaliser = softmax,
    sinks: Tensor | None = None,
    q_positions: Tensor | None = None,
    k_positions: Tensor | None = None,
    views: Sequence[View] = (),
    rows: Callable[[Rows], Tensor | None] | None = None,
    state: bool = False,
    engine: str | Engine = "auto",
) -> Tensor | State:
    """Softmax attention of every query over the keys that its mask allows.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E], H a multiple of G (grouped heads are not repeated);
    positions [N or M], [B, N or M] or [B, H, N or M], negative = empty slot, by default the queries are the last N of
    M (of more queries than keys the first come before every key and see nothing: give positions); sinks [H]; result
    [B, H, N, E], or State(out, lse) with `state=True`. A query that sees nothing gives zeros and lse -inf. `views`
    score chosen pairs with another q and k; `rows` receives complete rows of weights, a block of queries at a time, and
    may return edited ones. `scale` defaults to D ** -0.5.

    Raises: ShapeError, ValueError for what does not fit together; EngineRefused where the engine asked for can't run.
    """
    p = problem(
        q, k, v, where, edits, scale, _normaliser(normaliser, sinks), q_positions, k_positions, views, rows, state
    )
    return choose(p, engine).run(p)


def explain(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    where: Mask | None = None,
    edits: Sequence[Edit] = (),
    scale: float | None = None,
    normaliser: Normaliser = softmax,
    sinks: Tensor | None = None,
    q_positions: Tensor | None = None,
    k_positions: Tensor | None = None,
    views: Sequence[View] = (),
    rows: Callable[[Rows], Tensor | None] | None = None,
    state: bool = False,
) -> Explanation:
    """Which engine `attend` would take for the same call, and why not each other one; nothing is computed."""
    p = problem(
        q, k, v, where, edits, scale, _normaliser(normaliser, sinks), q_positions, k_positions, views, rows, state
    )
    chosen = choose(p, "auto")
    why = dict(order(p)).get(chosen.name, "")
    others = {name: engine.unsupported(p) or [f"{chosen.name} is cheaper"] for name, engine in ENGINES.items()}
    others.pop(chosen.name, None)
    return Explanation(chosen.name, why, others)


def _normaliser(normaliser: Normaliser, sinks: Tensor | None) -> Normaliser:
    if sinks is None:
        return normaliser
    if normaliser is not softmax:
        raise ValueError("sinks= is short for normaliser=SoftmaxWithSinks(sinks); give one of the two.")
    return SoftmaxWithSinks(sinks)
