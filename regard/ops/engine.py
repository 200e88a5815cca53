"""What every engine answers: whether it can run a problem, and the result."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from regard.edits import softmax
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
