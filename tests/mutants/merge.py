"""Faults in the merging of partial attention."""

from __future__ import annotations

from tests.mutants.fault import Fault

MERGE = ("tests/ops/test_merge.py",)
S = "regard/ops/state.py"

FAULTS = [
    Fault(S, "left = (a.lse - safe).exp().unsqueeze(-1) * a.out.to(wide)", "left = a.out.to(wide)", "one side is not rescaled", MERGE),
    Fault(S, "right = (b.lse - safe)", "right = (a.lse - safe)", "one side has the other's weight", MERGE),
    Fault(S, "(a.lse - safe).exp()", "(safe - a.lse).exp()", "the smaller set weighs more", MERGE),
    Fault(S, "none = (a.lse == -torch.inf) & (b.lse == -torch.inf)", "none = torch.zeros_like(a.lse, dtype=torch.bool)", "two empty sides give NaN", MERGE),
    Fault(S, "none = (a.lse == -torch.inf) & (b.lse == -torch.inf)", "none = (a.lse == -torch.inf) | (b.lse == -torch.inf)", "one empty side empties the other", MERGE),
    Fault(S, "a.lse.masked_fill(none, 0.0), b.lse.masked_fill(none, 0.0)", "a.lse, b.lse", "the gradient of two empty sides is NaN", MERGE),
    Fault(S, "safe = torch.logaddexp(", "safe = torch.maximum(", "log-sum-exps are not added", MERGE),
    Fault(S, "lse = safe.masked_fill(none, -torch.inf)", "lse = safe", "an empty set has a sum of one", MERGE),
    Fault(S, "State((left + right).to(a.out.dtype), lse)", "State(left + right, lse)", "merging leaves the dtype of the values", MERGE),
    Fault(S, "if a.out.shape != b.out.shape or a.lse.shape != b.lse.shape:", "if False:", "states of different shapes are merged", MERGE),
]  # fmt: skip
