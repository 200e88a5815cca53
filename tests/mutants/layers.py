"""Faults in the layer, its contract and its cache."""

from __future__ import annotations

from tests.mutants.fault import Fault

L, A, C = "regard/mechanisms/layer.py", "regard/layers/attention.py", "regard/mechanisms/call.py"
S, M, P = "regard/mechanisms/slot.py", "regard/mechanisms/mixer.py", "regard/mechanisms/projection.py"
H, R, W = "regard/caches/held.py", "regard/mechanisms/state.py", "regard/layers/create.py"
LAYER = ("tests/layers/test_attention.py",)
NAMES = ("tests/layers/test_create.py",)
HELD = ("tests/caches/test_held.py", "tests/layers/test_attention.py")
SUITE = ("tests/testing/test_conformance.py", "-k", "softmax or gqa or concat")

FAULTS = [
    Fault(C, "order = causal() if self.causal else everything", "order = everything", "a layer forgets that it is causal", LAYER),
    Fault(C, "return seen & (j <= i) if self.causal else seen", "return seen & (j < i) if self.causal else seen", "a dense mask leaves out the diagonal", ("tests/testing/test_conformance.py", "-k", "structural and limits")),
    Fault(C, "            k_positions=self.k_positions,\n        )", "            k_positions=None,\n        )", "a layer's keys lose their positions", LAYER),
    Fault(C, "edits=(*self.edits, *edits),", "edits=edits,", "a position's edits are dropped by attention", LAYER),
    Fault(C, "mask = self.where if where is None else self.where & where", "mask = self.where if where is None else where", "a mixer's own mask replaces the causal one", ("tests/layers/test_slots.py",)),
    Fault(L, "return torch.where(real, real.cumsum(1) - 1, -1)", "return torch.where(real, real.cumsum(1), -1)", "padded rows count from one", ("tests/testing/test_conformance.py", "-k", "padding")),
    Fault(L, "return None if bool(padding.all()) else padding", "return None", "a layer takes padding for tokens", LAYER),
    Fault(C, "return order if self.documents is None else order & documents(self.documents)", "return order", "packed documents see each other", (*SUITE[:2], "softmax and packed")),
    Fault(C, "            seen = seen & (self.documents[:, None, :, None] == self.documents[:, None, None, :])\n", "            pass\n", "packed documents see each other in a dense mask", (*SUITE[:2], "structural and packed")),
    Fault(C, "first = real & ((ids != before) | (slots == 0))", "first = (ids != before) | (slots == 0)", "a document begins at the padding in it", ("tests/layers/test_slots.py",)),
    Fault(A, "return torch.where(at < 0, -1, at - call.starts)", "return at", "packed documents are counted on from each other", (*SUITE[:2], "sinusoidal and packed")),
    Fault(L, "if bool((ids[:, 1:] < ids[:, :-1]).any()):", "if False:", "documents that come twice are let through", LAYER),
    Fault("regard/mechanisms/slot.py", "if call.documents is not None and not spec.packing:", "if False:", "documents reach a part that can't keep them apart", ("tests/layers/test_slots.py",)),
    Fault("regard/mechanisms/dense/sigmoid.py", "return upto - (upto - real).gather(1, starts)", "return upto", "a document's keys are counted from another's", (*SUITE[:2], "sigmoid and packed")),
    Fault("regard/mechanisms/dense/cog_attention.py", "seen = seen & (own[", "seen = seen | (own[", "packed documents see each other in tiles", (*SUITE[:2], "cog and packed")),
    Fault("regard/mechanisms/dense/castle.py", "seen = (i >= 0) & (j >= least) & (j <= i)", "seen = (i >= 0) & (j >= 0) & (j <= i)", "a lookahead key reaches over a document's border", (*SUITE[:2], "castle and packed")),
    Fault(L, "at = torch.where(padding, seen[:, None] + count - 1, -1)", "at = torch.where(padding, seen[:, None] + count - 1, 0)", "padding in a prompt has a position", SUITE),
    Fault(L, "seen = seen + tokens.shape[1]", "seen = seen + 1", "a chunk counts as one step", ("tests/testing/test_conformance.py", "-k", "decode")),
    Fault(L, "seen = seen + count[:, -1]", "seen = seen + padding.shape[1]", "padding counts as seen", ("tests/testing/test_conformance.py", "-k", "decode")),
    Fault(L, "        self.allow(call)\n        return self.attend(call)", "        return self.attend(call)", "a whole layer asks no one what is allowed", ("tests/testing/test_conformance.py", "-k", "refuses")),
    Fault(L, "if causal:\n", "if False:\n", "causal across two sequences is let through", LAYER),
    Fault(A, "k = self._turned(k, call.k_positions, n, 0)", "k = k", "keys are not turned while decoding", LAYER),
    Fault(A, "q = self._turned(q, call.q_positions, n, 0)", "q = q", "queries are not turned while decoding", LAYER),
    Fault(A, "call = self._embedded(call).with_(before=inner.before, before_positions=inner.at)", "call = call.with_(before=inner.before, before_positions=inner.at)", "positions are not embedded while decoding", LAYER),
    Fault(A, "memory = self.position.embed(call.memory, call.k_at(M)) if call.cross else tokens", "memory = call.memory", "keys are made from tokens without positions", LAYER),
    Fault(A, "self._turned(k, other, M, 0)", "k", "keys are not turned", LAYER),
    Fault(A, "out = self.mixer(q, k, v, self._edited(q, k, after))", "out = self.mixer(q, k, v, after)", "edits of scores are lost while decoding", LAYER),
    Fault(A, "found = [type(part).__name__ for part in self.parts if not part.spec.decode]", "found = []", "a layer decodes though a slot can't", LAYER),
    Fault(A, "if p.kv_heads != p.heads and not part.spec.gqa:", "if False:", "grouped heads reach a part that can't take them", LAYER),
    Fault(A, "if self.position.spec.scores and not self.mixer.spec.scores:", "if False:", "edits reach a mixer that has no scores", LAYER),
    Fault(M, "after = state.append((k, v), call.k_at(k.shape[2]))", "after = state", "a mixer's state is not carried", ("tests/layers/test_slots.py",)),
    Fault(M, "if G != H and not self.spec.gqa:", "if False:", "a mixer takes grouped heads it does not claim", ("tests/layers/test_slots.py",)),
    Fault(S, "if call.causal and not spec.causal:", "if False:", "causal is let through to what is not", ("tests/layers/test_slots.py",)),
    Fault(S, "if not call.causal and not spec.bidirectional:", "if False:", "both directions are let through to what is causal only", ("tests/layers/test_slots.py",)),
    Fault(S, "if call.cross and not spec.cross:", "if False:", "another sequence is let through unclaimed", ("tests/layers/test_slots.py",)),
    Fault(S, "if not spec.padding and call.padded:", "if False:", "padding is let through unclaimed", ("tests/layers/test_slots.py",)),
    Fault(P, "return split(self.k(memory), self.kv_heads), split(self.v(memory), self.kv_heads)", "return split(self.v(memory), self.kv_heads), split(self.k(memory), self.kv_heads)", "keys and values change places", SUITE),
    Fault(P, "return x.unflatten(-1, (heads, -1)).transpose(1, 2)", "return x.unflatten(-1, (-1, heads)).movedim(-1, 1)", "heads are interleaved features", SUITE),
    Fault("regard/mechanisms/heads/concat.py", "return self.out(join(out))", "return self.out(out.flatten(1, 2).unflatten(1, (out.shape[2], -1)).flatten(2))", "heads are joined without being turned back", SUITE),
    Fault("regard/mechanisms/dense/softmax.py", "scale=self.scale", "scale=1.0", "the softmax mixer forgets the scale", SUITE),
    Fault(H, "if [p.shape[:2] + p.shape[3:] for p in parts]", "if False and [p.shape[:2] + p.shape[3:] for p in parts]", "a state of another layer is taken", LAYER),
    Fault(H, "stay = torch.arange(M - self.size, M, device=self.positions.device)", "stay = torch.arange(M - self.size + 1, M, device=self.positions.device)", "a cache of a size keeps one token less", HELD),
    Fault(H, "sink = ((old >= 0) & (old < self.sinks)).any(0)", "sink = (old < self.sinks).any(0)", "a cache keeps padding as a sink", HELD),
    Fault(H, "places = self.positions if shared else self.positions[index]", "places = self.positions", "reordered rows keep their old positions", HELD),
    Fault(R, "return state if state.shape[0] == 1 and index.max() > 0 else state[index]", "return state", "a state's tensors are not reordered", ("tests/testing/test_conformance.py", "-k", "value")),
    Fault(W, "if setting not in own:", "if False:", "an unknown setting is not named", NAMES),
    Fault(W, '{key: _value(value) for key, value in settings.items()}', 'settings', "a typed setting stays text", NAMES),
    Fault("regard/mechanisms/walk.py", "all(getattr(kind.spec, key) == value for key, value in wanted.items())", "any(getattr(kind.spec, key) == value for key, value in wanted.items())", "mechanisms answer one of what is asked", NAMES),
    Fault("regard/mechanisms/walk.py", "kind.spec.cost.time <= max_time_exponent", "kind.spec.cost.time >= max_time_exponent", "the slow are listed for the fast", NAMES),
    Fault("regard/core/describe.py", 'for what, there in (("formula in its spec", spec.formula),', 'for what, there in (("formula in its spec", True),', "a page is made without its formula", ("tests/cli/test_list.py",)),
]  # fmt: skip
