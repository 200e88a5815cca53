"""What every engine answers: whether it can run a problem, and the result."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from regard.edits import Edit, softmax
from regard.ops.problem import Problem
from regard.ops.state import State, merge


class Engine:
    """One way to compute `attend`; all give the same result where they can run at all."""

    name: ClassVar[str]

    def unsupported(self, problem: Problem) -> list[str]:
        """Every reason why this engine can't run the problem; empty where it can."""
        raise NotImplementedError

    def run(self, problem: Problem) -> Tensor | State:
        """The output [B, H, N, E], or the State where the problem asks for it."""
        raise NotImplementedError


class StateEngine(Engine):
    """An engine whose kernel gives (out, lse): views become merged states, sink logits a factor."""

    def attend(self, problem: Problem) -> State:
        """Softmax attention of one problem without views."""
        raise NotImplementedError

    def run(self, problem: Problem) -> Tensor | State:
        parts = problem.parts() if problem.views else [problem]
        state = self.attend(parts[0])
        for part in parts[1:]:
            state = merge(state, self.attend(part))
        return self._finished(problem, state)

    def _finished(self, problem: Problem, state: State) -> Tensor | State:
        if problem.state:
            return state
        if problem.normaliser is softmax:
            return state.out
        return problem.normaliser.from_lse(state.out, state.lse)


def common_refusals(problem: Problem, *, rows: bool = False, lse: bool = True) -> list[str]:
    """Reasons shared by engines that never hold complete rows (`rows=False`) or work by log-sum-exp (`lse=True`)."""
    reasons = []
    if problem.rows is not None and not rows:
        reasons.append("something reads or edits the attention weights, which this engine never holds")
    if problem.state and problem.normaliser is not softmax:
        reasons.append("a State is only defined for plain softmax; add the sinks after merging")
    if lse and not problem.normaliser.has_lse:
        reasons.append(f"{type(problem.normaliser).__name__} is not a function of the log-sum-exp")
    return reasons


def wide(dtype: torch.dtype) -> torch.dtype:
    """The dtype softmax runs in: at least float32."""
    return torch.promote_types(dtype, torch.float32)


def log_sum_exp(scores: Tensor, seen: Tensor) -> Tensor:
    """log sum exp of the scores that are seen, [B, H, n]: -inf, with a gradient of zero, where there are none."""
    scores = scores.masked_fill(~seen, -torch.inf)
    if not scores.shape[-1]:
        return scores.new_full(scores.shape[:-1], -torch.inf)
    none = (scores == -torch.inf).all(-1)
    return scores.masked_fill(none.unsqueeze(-1), 0.0).logsumexp(-1).masked_fill(none, -torch.inf)


def apply_edits(
    edits: Sequence[Edit],
    scores: Tensor,
    b: Tensor,
    h: Tensor,
    places: tuple[Tensor, Tensor],
    slots: tuple[Tensor, Tensor],
) -> Tensor:
    """Scores after all edits in order; `places` are positions (i, j), and `slots` rows and slots for edits by slot.

    Raises: TypeError where an edit returns another shape or dtype.
    """
    for edit in edits:
        found = edit.at(scores, b, h, *(slots if edit.by_slot else places))
        if found.shape != scores.shape or found.dtype != scores.dtype:
            raise TypeError(
                f"{type(edit).__name__}.at must return scores of the shape and dtype it was given, "
                f"{list(scores.shape)} {scores.dtype}; got {list(found.shape)} {found.dtype}."
            )
        scores = found
    return scores
