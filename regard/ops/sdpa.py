"""torch's own fused attention: dense, causal, and anything small enough to write its mask out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.edits import softmax
from regard.masks import everything
from regard.masks.bands import FAR, Band
from regard.ops.engine import StateEngine, common_refusals, wide
from regard.ops.problem import Problem
from regard.ops.state import State

_WRITTEN = 1 << 18  # pairs of a mask that may be written out


class Sdpa(StateEngine):
    """`scaled_dot_product_attention`, with its causal flag where the mask is causal and no mask where it is dense."""

    name = "sdpa"

    def unsupported(self, problem: Problem) -> list[str]:
        reasons = common_refusals(problem)
        if not (problem.q.numel() and problem.v.numel()):
            return [*reasons, "torch's kernels do not take empty inputs"]
        if plain(problem) is not None and not problem.state and problem.normaliser is softmax:
            return reasons
        if any(not edit.additive for edit in problem.edits):
            reasons.append("an edit is not additive")
        if problem.extra_grad:
            reasons.append("an edit or the normaliser needs a gradient")
        pairs = problem.N * problem.M * (problem.B * problem.H if problem.edits else 1)
        if plain(problem) is None and pairs > _WRITTEN:
            reasons.append(f"the mask would be written out dense ({problem.N} x {problem.M}); engine='tiles' does not")
        if problem.state or problem.normaliser is not softmax or problem.views:
            if problem.q.device.type != "cpu":
                reasons.append("the log-sum-exp is only had on the CPU")
            if problem.grad:
                reasons.append("the log-sum-exp carries no gradient")
            if problem.q.shape[-1] != problem.v.shape[-1]:
                reasons.append("the log-sum-exp needs values as wide as keys")
        return reasons

    def run(self, problem: Problem) -> Tensor | State:
        if problem.state or problem.views or problem.normaliser is not softmax:
            return super().run(problem)
        kind = plain(problem)
        (q, k, v), grouped, width = evened(problem), problem.H != problem.G, problem.v.shape[-1]
        if kind is not None:
            return F.scaled_dot_product_attention(
                q, k, v, is_causal=kind == "causal", scale=problem.scale, enable_gqa=grouped
            )[..., :width]
        bias, empty = written(problem)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=problem.scale, enable_gqa=grouped)
        out = out[..., :width]
        return out.masked_fill(empty.unsqueeze(-1), 0.0) if empty.any() else out

    def attend(self, problem: Problem) -> State:
        kind = plain(problem)
        bias, empty = (None, None) if kind is not None else written(problem)
        out, lse = fused(problem.q, problem.k, problem.v, kind == "causal", bias, problem.scale)
        if empty is not None and empty.any():
            out, lse = out.masked_fill(empty.unsqueeze(-1), 0.0), lse.masked_fill(empty, -torch.inf)
        return State(out, lse)


def plain(problem: Problem) -> str | None:
    """'dense' or 'causal' where torch needs no mask for the problem, else None."""
    if problem.explicit or problem.edits or problem.views or problem.M == 0:
        return None
    if problem.where is everything:
        return "dense" if problem.N <= problem.M else None
    where = problem.where
    if isinstance(where, Band) and where.least == 0 and where.most >= FAR and where.block == 1:
        if problem.N == problem.M:
            return "causal"
        if problem.N == 1:
            return "dense"
    return None


def evened(problem: Problem) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, on the CPU as wide as each other: its fused kernel takes no others.

    Features of zero change no score, and come out as zeros, which are cut off.
    """
    q, k, v = problem.q, problem.k, problem.v
    D, E = q.shape[-1], v.shape[-1]
    if D == E or q.device.type != "cpu":
        return q, k, v
    if D > E:
        return q, k, F.pad(v, (0, D - E))
    return F.pad(q, (0, E - D)), F.pad(k, (0, E - D)), v


def written(problem: Problem) -> tuple[Tensor, Tensor]:
    """The mask and additive edits as one bias broadcastable to [B, H, N, M], and which rows [.., N] see nothing."""
    p = problem
    seen = p.where.dense(
        p.N, p.M, batch=p.B, heads=p.H, q_positions=p.q_positions, k_positions=p.k_positions, device=p.q.device
    )
    # Edits are written in float32 at least, which the kernels take with any dtype: bfloat16 would round a distance.
    bias = torch.zeros(seen.shape, dtype=wide(p.q.dtype) if p.edits else p.q.dtype, device=p.q.device)
    if p.edits:
        b = torch.arange(p.B, device=p.q.device).view(-1, 1, 1, 1)
        h = torch.arange(p.H, device=p.q.device).view(1, -1, 1, 1)
        rows, slots = torch.arange(p.N, device=p.q.device).view(-1, 1), torch.arange(p.M, device=p.q.device)
        for edit in p.edits:
            i, j = (rows, slots) if edit.by_slot else (p.i.unsqueeze(-1), p.j.unsqueeze(-2))
            bias = bias + edit.bias(b, h, i, j, dtype=bias.dtype).to(bias.dtype)
        seen = seen & (bias != -torch.inf)
    empty = ~seen.any(-1)
    # A row of -inf alone would be NaN in some kernels: it is computed over everything and zeroed afterwards.
    hidden = torch.where(empty.unsqueeze(-1), 0.0, -torch.inf).to(bias.dtype)
    return torch.where(seen, bias, hidden), empty


def fused(q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    """torch's fused CPU kernel with its log-sum-exp; grouped heads as they are."""
    return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, attn_mask=bias, scale=scale)
