"""Faults in score edits and normalisers."""

from __future__ import annotations

from tests.mutants.fault import Fault

SCORES = ("tests/edits/test_score_edits.py",)
NORMALISERS = ("tests/edits/test_normalisers.py",)
ATTEND = ("tests/ops/test_edits_in_attend.py",)
E = "regard/edits/"

FAULTS = [
    Fault("regard/ops/engine.py", "for edit in edits:", "for edit in reversed(edits):", "edits act in the reverse order", ATTEND),
    Fault("regard/ops/engine.py", "*(slots if edit.by_slot else places)", "*places", "edits by slot get positions", ATTEND),
    Fault("regard/ops/engine.py", "if found.shape != scores.shape or found.dtype != scores.dtype:", "if False:", "an edit may change the shape of scores", (*ATTEND, "-k", "named")),
    Fault(E + "base.py", "return scores + self.bias(b, h, i, j, dtype=wide)", "return scores * self.bias(b, h, i, j, dtype=wide)", "a bias multiplies", SCORES),
    Fault(E + "base.py", "and len(value) != H:", "and False:", "settings of the wrong number of heads are taken", ("tests/ops/test_problem.py",)),
    Fault(E + "curves.py", "return self.cap * torch.tanh(", "return torch.tanh(", "a softcap caps at one", SCORES),
    Fault(E + "curves.py", "torch.tanh(scores / self.cap)", "torch.tanh(scores)", "a softcap does not stretch", SCORES),
    Fault(E + "curves.py", "return scores / (t.to", "return scores * (t.to", "a temperature is inverted", SCORES),
    Fault(E + "biases.py", "return -self.slopes", "return self.slopes", "ALiBi favours what is far", SCORES),
    Fault(E + "biases.py", "* (i - j).abs()", "* (i - j)", "ALiBi favours what comes after the query", SCORES),
    Fault(E + "biases.py", "range(0, 2 * power, 2)", "range(1, 2 * power, 2)", "slopes between powers of two are wrong", SCORES),
    Fault(E + "biases.py", "(j >= start) & (j < stop)", "(j >= start) & (j <= stop)", "a span takes one key too many", SCORES),
    Fault(E + "biases.py", '"spans", _union(spans))', '"spans", tuple(spans))', "overlapping spans are not joined", SCORES),
    Fault(E + "biases.py", "by_slot: ClassVar[bool] = True", "by_slot: ClassVar[bool] = False", "a bias is read by position", ATTEND),
    Fault(E + "normalisers.py", "return (out * kept.unsqueeze(-1)).to(out.dtype)", "return out", "sink logits leave the output as it is", NORMALISERS),
    Fault(E + "normalisers.py", "return (out * kept.unsqueeze(-1)).to(out.dtype)", "return out * kept.unsqueeze(-1)", "float32 sinks widen a bfloat16 output", NORMALISERS),
    Fault(E + "normalisers.py", "torch.sigmoid(lse - self.sink(lse, h))", "torch.sigmoid(self.sink(lse, h) - lse)", "the sign of a sink's factor is wrong", NORMALISERS),
    Fault(E + "normalisers.py", "return torch.cat([scores, sink], -1).softmax(-1)[..., :-1]", "return scores.softmax(-1)", "a sink does not join the denominator", NORMALISERS),
    Fault(E + "normalisers.py", "scores = scores + bias", "scores = scores - bias", "the sign of the sigmoid's bias is wrong", NORMALISERS),
    Fault(E + "normalisers.py", "return like.new_zeros(())", "return like.new_ones(())", "off by one is off by e", NORMALISERS),
    Fault(E + "normalisers.py", "return torch.where(seen, scores, fill).softmax(-1)", "return torch.where(seen, scores, fill).softmax(-2)", "softmax runs over the queries", NORMALISERS),
    Fault(E + "normalisers.py", "fill).softmax(-1).masked_fill(dead, 0.0)", "fill).softmax(-1)", "rows that see nothing have weights", NORMALISERS),
    Fault(E + "normalisers.py", "scores.to(torch.promote_types(scores.dtype, torch.float32))", "scores", "normalisers run in bfloat16", NORMALISERS),
]  # fmt: skip
