"""Faults in the mechanisms that score every pair."""

from __future__ import annotations

from tests.mutants.fault import Fault

D = "regard/mechanisms/dense/"
ST, PR = "regard/ops/structure.py", "regard/ops/propagation.py"
AF, SA = D + "adaptive_filter_attention.py", D + "structural_attention.py"


def suite(name: str) -> tuple[str, ...]:
    """The conformance suite for one mechanism."""
    return "tests/testing/test_conformance.py", "-k", name


def own(name: str) -> tuple[str, ...]:
    """A mechanism's own tests."""
    return (f"tests/mechanisms/dense/test_{name}.py",)


STRUCTURE = ("tests/ops/test_structure.py",)

FAULTS = [
    Fault(D + "sigmoid.py", "edits=(Bias(rows[:, None, :, None]),), normaliser=normaliser", "normaliser=normaliser", "sigmoid weights lose the bias of the keys' number", suite("sigmoid")),
    Fault(D + "sigmoid.py", "right=True) - hidden", "right=False) - hidden", "a query does not count itself", suite("sigmoid")),
    Fault(D + "softmax_with_sinks.py", "self.sinks = nn.Parameter(torch.full((heads,), start))", "self.sinks = torch.full((heads,), start)", "sinks are not a parameter", own("softmax_with_sinks")),
    Fault(D + "mta.py", "self._convolved(scores.masked_fill(~seen, 0.0), self.kernel, documents)", "self._convolved(scores, self.kernel, documents)", "later keys are convolved with earlier ones", suite("mta and causal")),
    Fault(D + "mta.py", "self._convolved(weights, self.kernel_after, documents).masked_fill(~seen, 0.0)", "self._convolved(weights, self.kernel_after, documents)", "weights leak forward by the second convolution", suite("mta and after and causal")),
    Fault(D + "mta.py", "first = max(0, q.shape[2] - self.reach)", "first = max(0, q.shape[2] - self.reach + 1)", "one query too few is kept for the convolution", suite("mta and decode")),
    Fault(D + "mta.py", "F.pad(scores, (side, side, self.query_kernel - 1, 0))", "F.pad(scores, (2 * side, 0, self.query_kernel - 1, 0))", "the kernel reaches to one side of the keys", suite("mta and limits")),
    Fault(D + "mta.py", "if call.padded:", "if False:", "padding is a neighbour to the convolution", own("mta")),
    Fault(D + "mta.py", "found.masked_fill(~same[:, None, :, None], 0.0)", "found", "the convolution reaches into the document before", suite("mta and packed")),
    Fault(D + "mta.py", "documents = documents.expand(order.shape[0], -1).gather(1, order)", "documents = documents.expand(order.shape[0], -1)", "documents stay where padding was taken out", suite("mta-packed")),
    Fault(D + "cog_attention.py", "signed = (powers * scores.sign()).flatten(2, 3)", "signed = powers.flatten(2, 3)", "negative weights are positive", suite("cog_attention and limits")),
    Fault(D + "cog_attention.py", "out = out * fade + (signed @ values)", "out = out + (signed @ values)", "a tile's sums are not rescaled", ("tests/testing/test_conformance.py", "tests/mechanisms/dense/test_cog_attention.py", "-k", "cog")),
    Fault(D + "cog_attention.py", "return seen & (j <= i) if causal else seen", "return seen", "signed attention sees later keys", suite("cog_attention and causal")),
    Fault(D + "castle.py", "adds = seen & (j < i)", "adds = seen", "a key looks ahead at its own token", suite("castle and limits")),
    Fault(D + "castle.py", "came = (i >= 0) & (i.transpose(-1, -2) >= least) & (i.transpose(-1, -2) <= i)", "came = (i >= 0) & (i.transpose(-1, -2) >= 0)", "a block's later tokens renew keys too early", suite("castle and causal")),
    Fault(D + "castle.py", "return out, known.renewed + gates.transpose(-1, -2) @ brings", "return out, known.renewed", "lookahead keys are not carried over", suite("castle and decode")),
    Fault(D + "castle.py", "adds = adds & (i - j <= self.window)", "adds = adds & (i - j < self.window)", "the lookahead window is a token short", own("castle")),
    Fault(D + "deconstructed.py", "hidden = max(1, round(4 * dim / 3))", "hidden = max(1, round(2 * dim))", "the map without mixing has more parameters", own("deconstructed")),
    Fault(D + "deconstructed.py", "F.rms_norm(rows, (dim,))", "(rows.detach() * 3)", "the fixed sequence is not normalised", ("tests/testing/test_conformance.py", "tests/mechanisms/dense/test_deconstructed.py", "-k", "rnd_fixed or fixed or limits and deconstructed")),
    Fault(PR, "arriving = weights * tables.decay", "arriving = weights", "carried values do not decay", suite("adaptive_filter and limits")),
    Fault(PR, "norms = q.square().sum(-1)[..., :, None] + tables.decay**2 * k.square().sum(-1)", "norms = q.square().sum(-1)[..., :, None] + k.square().sum(-1)", "a key's norm does not decay", suite("adaptive_filter and limits")),
    Fault(PR, "return torch.where(small, 1 - x / 2, -torch.expm1(-safe) / safe)", "return torch.where(small, 1 - x / 2, -torch.expm1(-safe))", "process noise does not add up over time", suite("adaptive_filter and limits")),
    Fault(PR, "off = ((off / tables.variance).sum(-1) / scale)[..., None]", "off = off.sum(-1, keepdim=True) / scale[..., None] / tables.variance", "a residual is not measured in the precision of each feature", own("adaptive_filter_forms")),
    Fault(PR, "(off.log1p() if robust else off)", "off", "outliers weigh by their square", own("adaptive_filter_attention")),
    Fault(AF, "out = turned(out, omega, at + self.dt if self.predict else at)", "out = turned(out, omega, at)", "a prediction is not turned to the next step", own("adaptive_filter_attention")),
    Fault(AF, "return positions.to(like.dtype) * self.dt", "return positions.to(like.dtype)", "time is counted in positions whatever dt is", own("adaptive_filter_forms")),
    Fault(AF, "self._room(len(like), N, N)", "pass", "tables by feature may be of any size", own("adaptive_filter_forms")),
    Fault(AF, "prior if slope is None else prior - slope * D", "prior", "a linear bias is none", own("adaptive_filter_forms")),
    Fault(ST, "found = torch.where(seen, scores + others - safe, -torch.inf).exp()", "found = torch.where(seen, others - safe, -torch.inf).exp()", "an edge's own score is left out of a subset's marginal", STRUCTURE),
    Fault(ST, "top = x.detach().amax(-1, keepdim=True).clamp(min=0.0 if none else -torch.inf)", "top = x.detach().amax(-1, keepdim=True)", "the edge to none overflows", STRUCTURE),
    Fault(ST, "edges = hard + edges - edges.detach()", "edges = hard", "samples pass no gradient", STRUCTURE),
    Fault(ST, "q = torch.where(total > 0, edges @ k / torch.where(total > 0, total, 1.0), q)", "q = torch.where(total > 0, edges @ k, q) + q", "retrieval adds to the query", STRUCTURE),
    Fault(ST, "out = out / torch.where(total > 0, total, 1.0)", "out = out", "slots read sums and not means", STRUCTURE),
    Fault(ST, "spent = edges * (force - strength * _force(q, k, edges, coupled) / 2)", "spent = edges * force", "the bound counts every pair of edges twice", own("structural_attention_cases")),
    Fault(ST, "return (edges @ k) @ k.mT - edges * k.square().sum(-1)[..., None, :]", "return (edges @ k) @ k.mT", "an edge is coupled with itself", own("structural_attention_cases")),
    Fault(SA, "if self._joint and call.causal:", "if False:", "earlier queries hear of later ones' edges", own("structural_attention")),
    Fault(SA, "log_prior = self.odds.to(wide)[None, :, None, None]", "pass", "learned odds are not read", own("structural_attention")),
    Fault(SA, "return math.log(self.p), math.log1p(-self.p)", "return math.log(self.p), math.log(self.p)", "a fixed geometric prior falls by its rate", own("structural_attention")),
]  # fmt: skip
