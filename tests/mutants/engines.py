"""Faults in attend: the problem, the choice of an engine, and the engines."""

from __future__ import annotations

from tests.mutants.fault import Fault

CHOOSE = ("tests/ops/test_choose.py",)
PROBLEM = ("tests/ops/test_problem.py",)
ROWS = ("tests/ops/test_rows_callback.py",)
WORK = ("tests/ops/test_memory_and_work.py",)
STACK = ("tests/ops/test_stack.py",)
O = "regard/ops/"


def of(engine: str, *files: str) -> tuple[str, ...]:
    """The tests of one engine in some files of tests/ops."""
    return (*(f"tests/ops/test_{file}.py" for file in files or ("engines",)), "-k", engine)


FAULTS = [
    # The problem and its parts.
    Fault(O + "problem.py", "1 / math.sqrt(q.shape[-1])", "1 / q.shape[-1]", "the default scale is 1 / D", of("reference")),
    Fault(O + "problem.py", 'self.M - self.N, "q_positions"', '0, "q_positions"', "queries are the first of the keys", of("reference")),
    Fault(O + "problem.py", "return positions(self.k_positions, self.M, 0,", "return positions(None, self.M, 0,", "positions of keys are ignored", of("reference", "positions")),
    Fault(O + "problem.py", "replace(self, q=view.q,", "replace(self, q=self.q,", "a view's query is not used", of("tiles", "views")),
    Fault(O + "problem.py", "k=self.k if view.k is None else view.k", "k=self.k", "a view's key is not used", of("tiles", "views")),
    Fault(O + "problem.py", "else (where & view, where & ~view)", "else (where & view, where)", "a view's pairs are counted twice where tensors choose them", of("tiles", "views")),
    Fault(O + "problem.py", "    return where & view, where & ~view\n", "    return where & view, where\n", "a view's pairs are counted twice", of("tiles", "views")),
    Fault(O + "problem.py", "(self.q, self.k, self.v, *viewed)", "(self.q, self.k, self.v)", "a view's tensors get no gradient", ("tests/ops/test_views.py", "-k", "gradient")),
    Fault(O + "problem.py", "if edited is None:\n            return rows.weights", "if True:\n            return rows.weights", "edited weights are not used", ROWS),
    Fault(O + "problem.py", "if edited.shape != rows.weights.shape:", "if False:", "edited weights may have any shape", ROWS),
    Fault(O + "problem.py", "edit.check(p.B, p.H, p.N, p.M)", "pass", "edits are not checked", PROBLEM),
    Fault(O + "problem.py", "p.normaliser.check(p.H)", "pass", "normalisers are not checked", PROBLEM),
    Fault(O + "problem.py", '_check_lead(f"{name}={mask!r}", mask.axes, p)', "pass", "masks may have any batch and head axes", PROBLEM),
    Fault(O + "problem.py", "_check_lead(name, (p.i if", "print(name, (p.i if", "positions may have any batch and head axes", PROBLEM),
    # The choice.
    Fault(O + "choose.py", "for name, _ in order(problem):\n            if not", "for name, _ in reversed(order(problem)):\n            if not", "auto takes the dearest engine", CHOOSE),
    Fault(O + "choose.py", "raise EngineRefused(engine.name, reasons)", "pass", "an engine asked for by name runs against its reasons", CHOOSE),
    Fault(O + "engine.py", 'reasons.append("a State is only', 'print("a State is only', "a state with sinks is not refused", CHOOSE),
    Fault(O + "engine.py", "if problem.rows is not None and not rows:", "if False:", "engines without rows claim to show them", CHOOSE),
    Fault(O + "engine.py", "if lse and not problem.normaliser.has_lse:", "if False:", "sigmoid is taken for a function of the log-sum-exp", CHOOSE),
    Fault(O + "engine.py", "return problem.normaliser.from_lse(state.out, state.lse)", "return state.out", "sinks are left out", of("tiles", "normalisers_in_attend")),
    Fault(O + "engine.py", "return torch.promote_types(dtype, torch.float32)", "return dtype", "softmax runs in bfloat16", ("tests/ops/test_engines.py", "-k", "bfloat16")),
    Fault(O + "engine.py", "scores.masked_fill(none.unsqueeze(-1), 0.0).logsumexp(-1)", "scores.logsumexp(-1)", "a hidden row's log-sum-exp has a NaN gradient", ("tests/ops/test_gradients.py", "-k", "whole_rows")),
    Fault(O + "engine.py", "scores = scores.masked_fill(~seen, -torch.inf)", "scores = scores.clone()", "the log-sum-exp runs over hidden keys", of("rows and state")),
    # The reference.
    Fault(O + "reference.py", "scores = _products(p.q, p.k, kind) * p.scale", "scores = _products(p.q, p.k, kind)", "the reference has no scale", of("reference")),
    Fault(O + "reference.py", "p.v.to(kind).repeat_interleave(p.H // p.G, dim=1)", "p.v.to(kind).repeat(1, p.H // p.G, 1, 1)", "the reference repeats the wrong heads", of("reference")),
    Fault(O + "reference.py", "p.where.at(b, h, i, j) & (i >= 0)", "(i >= 0)", "the reference drops the mask", of("reference")),
    Fault(O + "reference.py", "& (i >= 0) & (j >= 0)", "& (i >= 0)", "the reference sees empty slots", of("reference", "positions")),
    Fault(O + "reference.py", "for view in reversed(p.views):", "for view in ():", "the reference ignores views", of("reference", "views")),
    Fault(O + "reference.py", "for view in reversed(p.views):", "for view in p.views:", "the last of overlapping views counts", of("reference", "views")),
    Fault(O + "reference.py", "State(out, log_sum_exp(scores, seen))", "State(out, -log_sum_exp(scores, seen))", "the log-sum-exp has the wrong sign", of("reference")),
    Fault(O + "reference.py", "(weights.to(kind) @ values).to(p.q.dtype)", "weights.to(kind) @ values", "the reference leaves the dtype", of("reference", "precision")),
    Fault(O + "reference.py", "weights = p.read(Rows(weights, 0, 0, seen))", "pass", "the reference shows nobody its weights", ROWS),
    # Rows.
    Fault(O + "rows.py", "(q.to(kind) * scale)", "q.to(kind)", "rows have no scale", of("rows")),
    Fault(O + "rows.py", "p.where.at(b, h, i, j) & (i >= 0)", "(i >= 0)", "rows drop the mask", of("rows")),
    Fault(O + "rows.py", "for view in reversed(p.views):", "for view in ():", "rows ignore views", of("rows", "views")),
    Fault(O + "rows.py", "int(seen[0]) * 64", "int(seen[0]) * 64 + 1", "rows skip a visible key", of("rows")),
    Fault(O + "rows.py", "int(seen[-1]) * 64 + 64", "int(seen[-1]) * 64", "rows skip their last keys", of("rows")),
    Fault(O + "rows.py", "(int(seen[0]) * 64, min(p.M, int(seen[-1]) * 64 + 64))", "(0, p.M)", "rows skip nothing", WORK),
    Fault(O + "rows.py", "recompute = p.rows is None and (p.grad or p.extra_grad)", "recompute = False", "training keeps all scores", WORK),
    Fault(O + "rows.py", "*chunk, len(chunks) > 1))", "*chunk, False))", "chunks are merged without their sums", of("rows_16x30")),
    Fault(O + "rows.py", "out = p.normaliser.from_lse(state.out, state.lse) if", "out = state.out if", "merged chunks leave out the sinks", of("rows_16x30", "normalisers_in_attend")),
    Fault(O + "rows.py", "lse.masked_fill(lse == -torch.inf, 0.0).unsqueeze(-1)", "lse.unsqueeze(-1)", "a chunk hidden by a bias is NaN", of("rows_16x30", "edits_in_attend")),
    Fault(O + "rows.py", "(scores - shift).masked_fill(~seen, -torch.inf).exp()", "(scores - shift).exp().masked_fill(~seen, 0.0)", "large hidden scores have a NaN gradient", of("rows_16x30 and finite_gradients", "precision")),
    Fault(O + "rows.py", "torch.arange(start, stop, device=device).view(-1, 1)", "torch.arange(0, stop - start, device=device).view(-1, 1)", "a bias starts again with every block", of("rows_7 and bias", "edits_in_attend")),
    Fault(O + "rows.py", "Rows(weights, start, first, seen)", "Rows(weights, start, 0, seen)", "rows name the wrong keys", ROWS),
    Fault(O + "rows.py", "if self.keys is not None and (problem.rows", "if False and (problem.rows", "chunks of keys claim complete rows", ROWS),
    Fault(O + "rows.py", "if size is not None and size < 1:", "if False:", "chunk sizes below 1 are taken", WORK),
    # Tiles: blocks of work.
    Fault(O + "runs.py", "edges.append(Edge(place, place + last - first, bias))", "edges.append(Edge(0, last - first, bias))", "tiles mask the wrong columns", of("tiles")),
    Fault(O + "runs.py", "min(width, patterns.last[number])", "min(width, patterns.last[number] - 1)", "tiles leave out the last visible key", of("tiles")),
    Fault(O + "runs.py", "ragged = min(cols, plan.M - tiles[-1] * cols)", "ragged = cols", "the ragged last tile is taken for a whole one", ("tests/ops/test_gradients.py", "-k", "all_engines")),
    Fault(O + "runs.py", "key = (b, h, kind, device)", "key = (b, kind, device)", "all heads have the first one's blocks", of("tiles and per_head")),
    Fault(O + "runs.py", "None if bool(some.all()) else ~some", "None", "rows that see nothing are not known", of("tiles and state")),
    Fault(O + "runs.py", "patterns.rows[numbers, :rows].any(0)", "patterns.rows[numbers, :rows].all(0)", "rows that see something are taken for empty", of("tiles")),
    # Tiles: parts.
    Fault(O + "parts.py", "beta=0, alpha=scale, out=into)", "beta=0, out=into)", "tiles have no scale", of("tiles")),
    Fault(O + "parts.py", "for edge in block.edges:", "for edge in ():", "tiles drop their masks", of("tiles")),
    Fault(O + "parts.py", "over.copy_(torch.baddbmm(over", "(torch.baddbmm(over", "keys under spare columns are read", of("tiles and many_tiles")),
    Fault(O + "parts.py", "out = torch.bmm(weights[:, :, extra:first]", "out = torch.bmm(0 * weights[:, :, extra:first]", "keys apart are left out", of("tiles and many_tiles")),
    Fault(O + "parts.py", "return self.rows[:, block.main.stop - block.keys - extra : block.main.stop]", "return self.rows[:, max(0, block.main.stop - block.keys - extra - 1) : block.main.stop - 1]", "tiles read a run one key early", of("tiles")),
    Fault(O + "parts.py", "slice(heads.start // of, (heads.stop - 1) // of + 1)", "slice(0, heads.stop - heads.start)", "a head reads the first one's keys", of("tiles and per_head")),
    Fault(O + "parts.py", "batch = slice(b, b + 1) if over_b > 1 else slice(0, p.B)", "batch = slice(0, 1) if over_b > 1 else slice(0, p.B)", "only the first batch row is computed", of("tiles and documents")),
    Fault(O + "parts.py", "return min(b, plan.status.shape[0] - 1),", "return 0,", "all batch rows have the first one's plan", of("tiles and documents")),
    Fault(O + "parts.py", "if not p.explicit:", "if True:", "tiles ignore positions", of("tiles", "positions")),
    Fault(O + "parts.py", "(i.unsqueeze(-1), j.unsqueeze(-2)), (rows.view(-1, 1), slots)", "(rows.view(-1, 1), slots), (rows.view(-1, 1), slots)", "edits in tiles ignore positions", of("tiles", "edits_in_attend")),
    # Tiles: stacked blocks.
    Fault(O + "stack.py", "beta=0, alpha=scale, out=scores)", "beta=0, out=scores)", "stacked blocks have no scale", STACK),
    Fault(O + "stack.py", "for edge in block.edges:", "for edge in ():", "stacked blocks drop their masks", STACK),
    Fault(O + "stack.py", "aside.view(n, size, spare), scale,", "aside.view(n, size, spare), 1.0,", "keys apart of stacked blocks have no scale", STACK),
    Fault(O + "stack.py", "result = weights[:, :, :spare].flatten(0, 1)", "result = 0 * weights[:, :, :spare].flatten(0, 1)", "keys apart of stacked blocks are left out", STACK),
    Fault(O + "stack.py", "_windows(v.rows[g], main.start,", "_windows(v.rows[0], main.start,", "stacked blocks read the first head's values", STACK),
    Fault(O + "stack.py", "divmod(g * part.share + s,", "divmod(g * part.share,", "the heads of a group are written over each other", STACK),
    Fault(O + "runs.py", "and after.edges is block.edges", "and True", "blocks of other masks are stacked", STACK),
    Fault(O + "runs.py", "and after.spare is block.spare", "and True", "blocks of other keys apart are stacked", STACK),
    Fault(O + "stack.py", "if total is not None:", "if False:", "stacked blocks have no log-sum-exp", STACK),
    # Tiles: forward and backward.
    Fault(O + "tiles.py", "result.masked_fill(empty, 0.0)", "result", "rows that see nothing come out NaN", of("tiles")),
    Fault(O + "tiles.py", "empty = scores.amax(-1, keepdim=True) == -torch.inf", "pass", "rows hidden by a bias come out NaN", of("tiles", "edits_in_attend")),
    Fault(O + "tiles.py", "return top + total.log()", "return total.log()", "the log-sum-exp is without its maximum", of("tiles and state")),
    Fault(O + "tiles.py", "top.masked_fill(top == -torch.inf, 0.0)", "top", "the log-sum-exp of nothing is NaN", of("tiles and state")),
    Fault(O + "tiles.py", "(grad @ value.transpose(1, 2) - less) * p.scale", "(grad @ value.transpose(1, 2)) * p.scale", "the backward pass forgets the mean", of("tiles", "gradients")),
    Fault(O + "tiles.py", "(grad @ value.transpose(1, 2) - less) * p.scale", "(grad @ value.transpose(1, 2) - less)", "the backward pass has no scale", of("tiles", "gradients")),
    Fault(O + "tiles.py", " - dlse.to(kind).unsqueeze(-1)", "", "the log-sum-exp has no gradient", of("tiles", "gradients")),
    Fault(O + "tiles.py", "lse.unsqueeze(-1).masked_fill(none, torch.inf)", "lse.unsqueeze(-1)", "rows that see nothing have a NaN gradient", ("tests/ops/test_gradients.py", "-k", "all_engines")),
    Fault(O + "tiles.py", "pull, sums = pull.masked_fill(none, 0.0),", "pull, sums = pull,", "rows that see nothing pass a NaN on", ("tests/ops/test_gradients.py", "-k", "nan_from_above")),
    Fault(O + "tiles.py", "held.index_add_(2, slots,", "held.index_add_(2, slots.flip(0),", "gradients go to the wrong keys", of("tiles", "gradients")),
    Fault(O + "tiles.py", 'reasons.append("an edit needs a gradient")', "pass", "tiles claim gradients of edits", CHOOSE),
    Fault(O + "tiles.py", 'reasons.append("an edit that is not', 'print("an edit that is not', "tiles claim the slope of a softcap", CHOOSE),
    # torch's own kernels.
    Fault(O + "sdpa.py", 'is_causal=kind == "causal"', "is_causal=True", "sdpa calls every mask causal", of("sdpa")),
    Fault(O + "sdpa.py", "if problem.N == problem.M:", "if problem.N <= problem.M:", "sdpa aligns causal at the first key", of("sdpa and causal")),
    Fault(O + "sdpa.py", "problem.explicit or problem.edits", "problem.edits", "sdpa ignores positions", of("sdpa", "positions")),
    Fault(O + "sdpa.py", "bias = bias + edit.bias(b, h, i, j, dtype=bias.dtype)", "bias = edit.bias(b, h, i, j, dtype=bias.dtype)", "sdpa keeps the last edit alone", of("sdpa", "edits_in_attend")),
    Fault(O + "sdpa.py", "edit.bias(b, h, i, j, dtype=bias.dtype)", "edit.bias(b, h, i, j)", "a float64 bias is computed in float32", of("sdpa", "edits_in_attend")),
    Fault(O + "sdpa.py", "wide(p.q.dtype) if p.edits else p.q.dtype", "p.q.dtype", "a bias by distance is rounded to bfloat16", of("sdpa and bfloat16", "precision")),
    Fault(O + "sdpa.py", "seen = seen & (bias != -torch.inf)", "pass", "a bias that hides a row leaves a log-sum-exp", of("sdpa", "edits_in_attend")),
    Fault(O + "sdpa.py", "return out.masked_fill(empty.unsqueeze(-1), 0.0) if empty.any() else out", "return out", "rows that see nothing average everything", of("sdpa and nothing")),
    Fault(O + "sdpa.py", "lse.masked_fill(empty, -torch.inf)", "lse", "rows that see nothing have a log-sum-exp", of("sdpa and nothing")),
    Fault(O + "sdpa.py", "if problem.extra_grad:", "if False:", "sdpa claims gradients of edits", CHOOSE),
    Fault(O + "sdpa.py", "if not (problem.q.numel() and problem.v.numel()):", "if False:", "sdpa takes empty inputs", (*CHOOSE, "-k", "empty_inputs")),
    Fault(O + "flex.py", 'reasons.append("float64 is not compiled")', "pass", "flex claims float64", CHOOSE),
    Fault(O + "flex.py", 'reasons.append("FlexAttention has no backward', 'print("FlexAttention has no backward', "flex claims a backward pass", CHOOSE),
    Fault(O + "sdpa.py", "return q, k, F.pad(v, (0, D - E))", "return q[..., :E], k[..., :E], v", "keys are cut to the values' width", of("sdpa")),
    Fault(O + "sdpa.py", "return F.pad(q, (0, E - D)), F.pad(k, (0, E - D)), v", "return q, k, v[..., :D]", "values are cut to the keys' width", of("sdpa")),
]  # fmt: skip
