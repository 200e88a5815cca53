"""Faults in the merging of partial attention."""

from __future__ import annotations

from tests.mutants.fault import Fault

MERGE = ("tests/ops/test_merge.py",)
S = "regard/ops/state.py"

FAULTS = [
    Fault(S, "left = (a.lse - safe).exp().unsqueeze(-1) * a.out.to(wide)", "left = a.out.to(wide)", "one side is not rescaled", MERGE),
    Fault(S, "none = (a.lse == -torch.inf) & (b.lse == -torch.inf)", "none = torch.zeros_like(a.lse, dtype=torch.bool)", "two empty sides give NaN", MERGE),
    Fault(S, "right = (b.lse - safe)", "right = (a.lse - safe)", "one side has the other's weight", MERGE),
    Fault(S, "safe = torch.logaddexp(", "safe = torch.maximum(", "log-sum-exps are not added", MERGE),
    Fault(S, "lse = safe.masked_fill(none, -torch.inf)", "lse = safe", "an empty set has a sum of one", MERGE),
    Fault(S, "wide = torch.promote_types(a.out.dtype, lse.dtype)", "wide = a.out.dtype", "bfloat16 outputs are weighed in bfloat16", MERGE),
]  # fmt: skip
