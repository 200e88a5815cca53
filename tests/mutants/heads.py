"""Faults in heads that share projections, latents, transforms or tokens, and in routing to them."""

from __future__ import annotations

from tests.mutants.fault import Fault

P = "regard/mechanisms/heads/"
T = "tests/mechanisms/heads/test_"
MLA, MOH, KHA, PAY, MHE = (f"{T}{name}.py" for name in ("mla", "moh", "knocking_heads", "pay_better_attention", "mhe"))
SUPER, SD, GROUPED = (f"{T}{name}.py" for name in ("super_attention", "sdconv", "grouped_time_attention"))
SPEECH = "tests/backbones/test_speech.py"


def suite(chosen: str) -> tuple[str, ...]:
    return ("tests/testing/test_conformance.py", "-k", chosen)


FAULTS = [
    Fault(P + "mla.py", "self.rotary = slice(nope_dim, None) if rope_dim else slice(None)", "self.rotary = slice(None)", "a decoupled position turns every feature of a latent key", (MLA, "-k", "turns")),
    Fault(P + "mla.py", "latent = self.kv_norm(self.kv_down(memory))[:, None]", "latent = self.kv_down(memory)[:, None]", "a latent is kept without its norm", suite("mla-limits")),
    Fault(P + "mla.py", "k = torch.cat([k, kept[1].expand(-1, self.heads, -1, -1)], -1)", "k = torch.cat([kept[1].expand(-1, self.heads, -1, -1), k], -1)", "the shared part of a latent key comes first", suite("mla-limits")),
    Fault(P + "mla.py", "self.q_norm(self.q_down(tokens))", "self.q_down(tokens)", "a query latent is not normalised", suite("mla-limits")),
    Fault(P + "moh.py", "both[..., :1] * always, both[..., 1:] * own", "both[..., 1:] * always, both[..., :1] * own", "shared heads get the weight of the routed", suite("moh-limits")),
    Fault(P + "moh.py", "self.active * taken / taken.sum", "taken / taken.sum", "gates of routed heads sum to one instead of their number", suite("moh-limits")),
    Fault(P + "moh.py", "likes.topk(self.active, -1).indices", "likes.topk(self.active, -1, largest=False).indices", "a token is routed to the heads that it likes least", suite("moh-limits")),
    Fault(P + "moh.py", "own = hard + p - p.detach() if self.training else hard", "own = hard", "no gradient passes straight through a hard gate", (MOH, "-k", "straight")),
    Fault(P + "moh.py", "places = torch.where(chosen.gather(-1, index), places, -1)", "places = places + 1", "gathered queries stand one place too late", (MOH, "-k", "gathered")),
    Fault(P + "moh.py", "return self.routed * (likely * often).sum()", "return self.routed * (likely * likely).sum()", "the balance of heads forgets which were taken", (MOH, "-k", "balance")),
    Fault(P + "moh.py", "kind = _at_least_float32(tokens)", "kind = tokens.dtype", "a router decides in half precision", (MOH, "-k", "half_precision")),
    Fault(P + "knocking_heads.py", "return self.down(2 * self.up(x) * self.gate(x).sigmoid())", "return self.down(self.up(x) * self.gate(x).sigmoid())", "a gated transform starts at half of its host", suite("knocking_heads-limits")),
    Fault(P + "knocking_heads.py", 'return self._knocked(k, "k"), self._knocked(v, "v")', 'return self._knocked(k, "q"), self._knocked(v, "v")', "keys pass the transform of queries", suite("knocking_heads-limits")),
    Fault(P + "knocking_heads.py", 'torch.einsum("ed,hd...->he...", ', 'torch.einsum("de,hd...->he...", ', "an absorbed transform is transposed", (KHA, "-k", "absorbed")),
    Fault(P + "optimised_attention.py", "split(self.k(memory), self.heads), split(memory, self.heads)", "split(self.k(memory), self.heads), split(self.k(memory), self.heads)", "values without a projection take the one of keys", suite("optimised_attention-limits")),
    Fault(P + "optimised_attention.py", "split(self.k(memory), self.heads), split(memory, self.heads)", "split(self.k(memory), self.heads), split(memory, self.heads).flip(1)", "heads read each other's slices", suite("optimised_attention-limits")),
    Fault(P + "efficient_slices.py", "return sliced, sliced", "return sliced, sliced.flip(1)", "a head reads the values of another slice", suite("efficient_slices-limits")),
    Fault(P + "efficient_slices.py", "self.latent = True", "self.latent = False", "raw tokens are kept twice, as keys and as values", (PAY, "-k", "once")),
    Fault(P + "super_attention.py", "seen = seen & (j <= i)", "seen = seen & (j < i + 2)", "aligned values mix the next token in", suite("super_attention-causal")),
    Fault(P + "super_attention.py", "self.alignment[row, column]", "self.alignment[column, row]", "the map from token to token is transposed", suite("super_attention-limits")),
    Fault(P + "super_attention.py", "if bool(((at >= 0).sum(1) != at.amax(1) + 1).any()):", "if False:", "values are aligned without the tokens that a cache let go", (PAY, "-k", "part_of")),
    Fault(P + "super_attention.py", "torch.cat([call.before, memory], 1), beside(call.before_positions, own)", "memory, own", "values of a step are mixed of its own tokens alone", suite("super_attention-decode and step")),
    Fault(P + "super_attention.py", "at = torch.where(at < 0, -1, at - call.starts)", "pass", "places of packed documents are counted from the row's start", suite("super_attention-packed")),
    Fault(P + "super_attention.py", "+ (row == column)", "", "a map of low rank forgets the identity", suite("super_attention-limits")),
    Fault(P + "super_attention.py", "if causal and bool(weights.triu(1).any()):", "if False:", "a causal map that looks ahead is taken", (SUPER, "-k", "fit")),
    Fault(P + "mhe.py", "scale = (1 + e_q) * (1 + e_k)", "scale = 1 + e_q", "folded heads forget the scale of keys", (MHE, "-k", "folded")),
    Fault(P + "mhe.py", "ends = ends + merge @ e_v.flatten()", "ends = ends + e_v.sum()", "folded heads lose the shift of values", (MHE, "-k", "folded")),
    Fault(P + "sdconv.py", "number * (self.kernel - 1)", "number * 0", "a convolution reaches into the next document", suite("sdconv-packed")),
    Fault(P + "sdconv.py", "self.value(spaced).masked_fill(hidden, 0.0)", "self.value(spaced)", "zeros between documents have the bias for a value", (SD, "-k", "documents")),
    Fault(P + "grouped_time_attention.py", ".masked_fill(later, 0.0).flatten(1, 2)", ".flatten(1, 2)", "a group asks with the tokens that come after", (GROUPED, "-k", "papers")),
    Fault(P + "grouped_time_attention.py", "asked = torch.cat([inner.asked, q.new_zeros", "asked = torch.cat([torch.zeros_like(inner.asked), q.new_zeros", "a step forgets the queries of its unfinished group", (GROUPED, "-k", "border")),
    Fault(P + "grouped_time_attention.py", "rest = (after // g - first)[:, None] * g + torch", "rest = torch", "a state keeps queries of a group that is finished", (GROUPED, "-k", "border")),
    Fault(P + "grouped_time_attention.py", "rank = rank - rank.gather(1, call.starts.expand(B, -1))", "pass", "groups straddle two documents", suite("grouped_time_attention-packed")),
    Fault(P + "grouped_time_attention.py", "place = torch.arange(N - 1, -1, -1, dtype=torch.float64)", "place = torch.arange(N, 0, -1, dtype=torch.float64)", "causal distances of groups start at one", suite("grouped_time_attention-limits")),
    Fault("regard/backbones/speech.py", "apart = at - at[:: self.stride, None] + N - 1", "apart = at - torch.arange(len(at[:: self.stride]))[:, None] + N - 1", "distances of strided queries are counted in strides", (SPEECH, "-k", "loops")),
    Fault("regard/backbones/speech.py", "where = where & chunks(self.window)", "pass", "strided queries of a window see every block", (SPEECH, "-k", "loops")),
    Fault("regard/backbones/speech.py", "x.masked_scatter(real[..., None], self.batch(x[real]))", "self.batch(x.transpose(1, 2)).transpose(1, 2)", "padding is in a convolution's mean and variance", (SPEECH, "-k", "statistics")),
    Fault(P + "moh.py", "seen = not call.causal and not call.padded and call.documents is None", "seen = not call.padded and call.documents is None", "gathered queries of a causal call see everything", (MOH, "-k", "gathered_equals")),
    Fault(P + "mhe.py", "return x * (1 + own) if self", "return x * own if self", "a head's embedding scales without the one", suite("mhe-limits")),
    Fault(P + "mhe.py", 'self._told_apart(k, "k"), self._told_apart(v, "v")', 'self._told_apart(k, "k"), self._told_apart(v, "k")', "values get the key's embedding", suite("mhe-limits")),
    Fault(P + "mhe.py", "0.02 * torch.randn(heads, width)", "0.02 * torch.randn(width).expand(heads, width).clone()", "all heads start with one embedding", (MHE, "-k", "apart")),
]  # fmt: skip
