"""Faults in methods."""

from __future__ import annotations

from tests.mutants.fault import Fault

CHOOSING = ("tests/methods/test_choosing.py",)
STREAMING = ("tests/methods/test_streaming.py",)
POWER = ("tests/methods/test_masked.py", "-k", "prefill and power")
S = "regard/methods/sparse/"
C = "regard/methods/cache/"

FAULTS = [
    Fault(S + "moba.py", "scores = scores.masked_fill(place == own, torch.inf)", "scores = scores.clone()", "moba may leave out a query's own block", CHOOSING),
    Fault(S + "moba.py", "(place > own) |", "(place > own + 1) |", "moba chooses a block that is ahead", CHOOSING),
    Fault(S + "moba.py", "means.repeat_interleave(share, 1)", "means.repeat(1, share, 1, 1)", "moba's gate reads another group's keys", ("tests/methods/test_masked.py", "-k", "prefill and moba")),
    Fault(S + "pooling.py", "return sums[:, :, :count] / held.clamp(min=1).unsqueeze(-1), held", "return sums[:, :, :count], held", "means are sums", CHOOSING),
    Fault(S + "oracle_top_k.py", "best = scores.topk(self.k, -1)", "best = scores.topk(self.k, -1, largest=False)", "the oracle takes the worst keys", CHOOSING),
    Fault(S + "random_blocks.py", "wanted = (keep * I).ceil()", "wanted = (keep * I).floor()", "random blocks keep too few", CHOOSING),
    Fault(S + "random_blocks.py", "(seed * 8191 + layer)", "(seed * 8191)", "every layer draws the same blocks", CHOOSING),
    Fault(S + "spargeattn.py", "before = ordered.cumsum(-1) - ordered", "before = ordered.cumsum(-1)", "spargeattn stops one block early", CHOOSING),
    Fault(S + "spargeattn.py", "smooth = k - block_means(k, at_k, int(at_k.max()) + 1, 1)[0].to(k.dtype)", "smooth = k", "spargeattn keeps the mean of all keys", CHOOSING),
    Fault(S + "spargeattn.py", ".sum(-1) > self.theta", ".sum(-1) < self.theta", "spargeattn trusts the wrong means", CHOOSING),
    Fault(S + "power_attention.py", "return power(self.block, self.window, self.sinks)", "return power(self.block, self.window)", "power_attention forgets its sinks", POWER),
    Fault(C + "streaming_llm.py", "site.rotate(q, -gap)", "site.rotate(q, gap)", "queries turn away from the sinks", STREAMING),
    Fault(C + "streaming_llm.py", "gap[0].expand(len(slots))", "-gap[0].expand(len(slots))", "sinks turn away from the query", STREAMING),
    Fault(C + "streaming_llm.py", "(self.window + self.sinks - 1)", "(self.window - 1)", "positions inside the cache leave out the sinks", STREAMING),
    Fault(C + "streaming_llm.py", "return Window(self.window, self.sinks)", "return Window(self.window)", "the cache keeps no sinks", STREAMING),
]  # fmt: skip
