"""Faults in merge and in the engines."""

from __future__ import annotations

from tests.mutants.fault import Fault

FAULTS = [
    Fault("regard/ops/state.py", "left = (a.lse - safe).exp()", "left = (a.lse - a.lse).exp()", "merge without rescaling", ('tests/ops/test_merge.py',)),
    Fault("regard/ops/state.py", "right = (b.lse - safe).exp()", "right = (a.lse - safe).exp()", "merge with the weights exchanged", ('tests/ops/test_merge.py',)),
    Fault("regard/ops/state.py", "none = (a.lse == -torch.inf) & (b.lse == -torch.inf)", "none = (a.lse == torch.inf) & (b.lse == torch.inf)", "merge of two empty sets is NaN", ('tests/ops/test_merge.py',)),
    Fault("regard/ops/reference.py", "scores = _products(p.q, p.k, kind) * p.scale", "scores = _products(p.q, p.k, kind)", "reference without scale", ('tests/ops/test_engines.py',)),
    Fault("regard/ops/reference.py", "values = p.v.to(kind).repeat_interleave(p.H // p.G, dim=1)", "values = p.v.to(kind).repeat(1, p.H // p.G, 1, 1)", "reference repeats the wrong heads", ('tests/ops/test_engines.py',)),
    Fault("regard/ops/reference.py", "& (i >= 0) & (j >= 0)", "& (i >= 0)", "reference ignores empty slots", ('tests/ops/test_positions.py',)),
    Fault("regard/ops/parts.py", "cut(self.q, block) * self.p.scale", "cut(self.q, block) * 1.0", "tiles without scale", ('tests/ops/test_engines.py',)),
    Fault("regard/ops/parts.py", "+= edge.bias", "+= 0 * edge.bias.nan_to_num(neginf=0.0)", "tiles drop their masks", ('tests/ops/test_engines.py',)),
    Fault("regard/ops/runs.py", "edges.append(Edge(place, place + last - first, bias))", "edges.append(Edge(0, last - first, bias))", "tiles mask the wrong columns", ('tests/ops/test_engines.py',)),
    Fault("regard/ops/parts.py", "weights[:, :, : extra + spare].zero_()", "weights[:, :, : extra + spare].mul_(1.0)", "spare columns keep their weight", ('tests/ops/test_engines.py',)),
    Fault("regard/ops/parts.py", "return t[:, block.main.stop - block.keys - extra : block.main.stop]", "return t[:, max(0, block.main.stop - block.keys - extra - 1) : block.main.stop - 1]", "tiles read a run one key early", ('tests/ops/test_engines.py',)),
    Fault("regard/ops/tiles.py", "result.masked_fill(empty, 0.0)", "result", "tiles let rows that see nothing through", ('tests/ops/test_engines.py',)),
    Fault("regard/ops/tiles.py", "return top + total.log()", "return total.log()", "the log-sum-exp without its maximum", ('tests/ops/test_merge.py', 'tests/ops/test_engines.py')),
    Fault("regard/ops/tiles.py", "(grad @ value.transpose(1, 2) - less) * p.scale", "(grad @ value.transpose(1, 2)) * p.scale", "the backward pass without its mean", ('tests/ops/test_gradients.py',)),
    Fault("regard/ops/tiles.py", "(grad @ value.transpose(1, 2) - less) * p.scale", "(grad @ value.transpose(1, 2) - less)", "the backward pass without scale", ('tests/ops/test_gradients.py',)),
    Fault("regard/ops/problem.py", "parts.append(replace(self, q=view.q,", "parts.append(replace(self, q=self.q,", "a view's query is not used", ('tests/ops/test_views.py',)),
    Fault("regard/ops/problem.py", "return where & view, where & ~view", "return where & view, where", "a view's pairs are counted twice", ('tests/ops/test_views.py',)),
    Fault("regard/ops/problem.py", "edited = self.rows(rows) if self.rows is not None else None", "edited = (self.rows(rows) and None) if self.rows is not None else None", "rows ignore edited weights", ('tests/ops/test_rows_callback.py',)),
    Fault("regard/ops/rows.py", "int(seen[0]) * 64", "int(seen[0]) * 64 + 1", "rows skip a key that is visible", ('tests/ops/test_engines.py',)),
    Fault("regard/ops/sdpa.py", "is_causal=kind == \"causal\"", "is_causal=True", "sdpa calls every mask causal", ('tests/ops/test_engines.py',)),
    Fault("regard/ops/sdpa.py", "if problem.extra_grad:", "if False:", "sdpa claims what it can't", ('tests/ops/test_choose.py',)),
    Fault("regard/ops/problem.py", "return positions(self.k_positions, self.M, 0, \"k_positions\", self.q.device)", "return positions(None, self.M, 0, \"k_positions\", self.q.device)", "positions are ignored", ('tests/ops/test_positions.py',)),
]  # fmt: skip
