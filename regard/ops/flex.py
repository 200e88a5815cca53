"""Compiled FlexAttention, planned by the mask's tile calculus instead of by evaluating N x M pairs."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regard.edits import softmax
from regard.ops.engine import StateEngine, common_refusals
from regard.ops.problem import Problem
from regard.ops.state import State

_TILE = 128
_KINDS = 1 << 12  # kinds of mask that one process may compile


class Flex(StateEngine):
    """torch's FlexAttention, compiled once per kind of mask; forward only on the CPU."""

    name = "flex"

    def unsupported(self, problem: Problem) -> list[str]:
        reasons = common_refusals(problem)
        if problem.q.dtype == torch.float64:
            reasons.append("float64 is not compiled")
        if problem.q.device.type == "cpu":
            if problem.grad or problem.extra_grad:
                reasons.append("FlexAttention has no backward pass on the CPU")
            if problem.state or problem.views or problem.normaliser is not softmax:
                reasons.append("FlexAttention gives no log-sum-exp on the CPU")
            if _compiler() is None:
                reasons.append("compiling for the CPU needs a C++ compiler (such as g++) on the PATH")
        if problem.N == 0 or problem.M == 0:
            reasons.append("there is nothing to compile for empty inputs")
        if problem.q.shape[-1] < 16 or problem.v.shape[-1] < 16:
            reasons.append("head widths below 16 are not compiled")
        return reasons

    def attend(self, problem: Problem) -> State:
        p = problem
        plan = p.where.tiles(
            p.N, p.M, _TILE, batch=p.B, heads=p.H, q_positions=p.q_positions, k_positions=p.k_positions
        )
        settings = {
            "score_mod": _score_mod(p) if p.edits else None,
            "block_mask": plan.block_mask(device=p.q.device),
            "scale": p.scale,
            "enable_gqa": p.H != p.G,
        }
        if p.q.device.type == "cpu":
            # run() reads only the output here: unsupported() has refused whatever needs the log-sum-exp.
            return State(_compiled()(p.q, p.k, p.v, **settings), p.q.new_empty(0))
        out, aux = _compiled()(p.q, p.k, p.v, **settings, **_lse_request())
        return State(out, aux if isinstance(aux, Tensor) else aux.lse)


def _score_mod(p: Problem) -> Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]:
    i, j = p.i.contiguous(), p.j.contiguous()

    def score_mod(score: Tensor, b: Tensor, h: Tensor, row: Tensor, slot: Tensor) -> Tensor:
        qi = i[b if i.shape[0] > 1 else 0, h if i.shape[1] > 1 else 0, row]
        kj = j[b if j.shape[0] > 1 else 0, h if j.shape[1] > 1 else 0, slot]
        for edit in p.edits:
            score = edit.at(score, b, h, row, slot) if edit.by_slot else edit.at(score, b, h, qi, kj)
        return score

    return score_mod


@functools.cache
def _compiled() -> Callable:
    from torch.nn.attention.flex_attention import flex_attention

    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)

    def run(*inputs: Any, **settings: Any) -> Any:
        # Past torch's limit of 8 kinds in a process flex_attention would hold all N x M scores, with only a warning.
        with torch._dynamo.config.patch(recompile_limit=_KINDS, accumulated_recompile_limit=_KINDS):
            return compiled(*inputs, **settings)

    return run


@functools.cache
def _compiler() -> str | None:
    names = (os.environ.get("CXX"), "g++", "clang++")
    return next((found for name in names if name and (found := shutil.which(name))), None)


@functools.cache
def _lse_request() -> dict[str, object]:
    """How this torch is asked for the log-sum-exp."""
    from torch.nn.attention import flex_attention as module

    request = getattr(module, "AuxRequest", None)
    return {"return_lse": True} if request is None else {"return_aux": request(lse=True)}
