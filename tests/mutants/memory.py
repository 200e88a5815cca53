"""Faults in what remembers."""

from __future__ import annotations

from tests.mutants.fault import Fault

M, O = "regard/mechanisms/memory/", "regard/ops/fast_weights.py"
T = "tests/mechanisms/memory/"


def suite(name: str) -> tuple[str, ...]:
    return ("tests/testing/test_conformance.py", "-k", name)


FAULTS = [
    Fault(O, "        error = (error @ weights[layer].transpose(-1, -2)) * gate * (1 + z * (1 - gate))", "        error = (error @ weights[layer].transpose(-1, -2)) * gate", "a fast network's inner slope is wrong", suite("titans-limits")),
    Fault(O, "    error = 2 * (x - v)", "    error = 2 * (v - x)", "a fast network climbs its loss", (T + "test_titans.py",)),
    Fault(O, "    rows = slice(u, u + n) if before else slice(u + 1, u + n + 1)", "    rows = slice(u, u + n)", "a fast network is read before it is written", (T + "test_titans.py",)),
    Fault(O, "            left * S + x.transpose(-1, -2) @ (own * e),", "            left * S,", "momentum forgets the chunk that ended", suite("titans and limits")),
    Fault(O, "            old[..., -1, None, None] * W + pushed", "            W + pushed", "a chunk's end forgets to forget", suite("titans and limits")),
    Fault(M + "titans.py", "        if self.tokens is None or self.mode == \"context\":", "        if True:", "persistent tokens are not learned first", suite("titans-limits")),
    Fault(M + "titans.py", "if not open_:\n                state = replace(state, view=Held())", "if False:\n                pass", "a segment sees the one before it", suite("titans and limits")),
    Fault(M + "titans.py", "F.logsigmoid(-forget)", "F.logsigmoid(forget)", "what should stay is forgotten", suite("titans-limits")),
    Fault(M + "landmark_attention.py", "    first = (seen & (other == own) & ~landmark) | (earlier & landmark)", "    first = (seen & (other == own)) | (earlier & landmark)", "the landmark of the own block is seen", suite("landmark_attention and limits")),
    Fault(M + "landmark_attention.py", "    return torch.where(landmark, 0.0, top) + inside", "    return top + inside", "landmarks' own values are read", (T + "test_landmark_attention.py", "-k", "rows")),
    Fault(M + "landmark_attention.py", "far = own - other > self.top_k", "far = own - other >= self.top_k", "the latest blocks count as far", suite("landmark_attention and limits")),
    Fault(M + "landmark_attention.py", "        chosen = (other[..., None] == block[..., None, :]).any(-1)\n", "        chosen = (other[..., None] != block[..., None, :]).any(-1)\n", "the wrong blocks are read", suite("landmark_attention and limits")),
    Fault(M + "rmat.py", "slots = torch.cat([slots, slot[:, None]], 1)[:, -self.slots :]", "slots = torch.cat([slots, slot[:, None]], 1)[:, : self.slots]", "the newest of the memory makes room", (T + "test_rmat.py",)),
    Fault(M + "rmat.py", "            if inner.outputs.shape[1] == self.segment:", "            if inner.outputs.shape[1] >= self.segment - 1:", "a segment is written before its end", suite("rmat and decode")),
    Fault(M + "rmat.py", "slot = g * newest + (1 - g) * torch.tanh(self.update(mean))", "slot = (1 - g) * newest + g * torch.tanh(self.update(mean))", "the memory's gate is turned round", (T + "test_rmat.py", "-k", "gate")),
    Fault(M + "rmat.py", "        slots, outputs = (x.detach() if cut else x for x in (state.slots, state.outputs))", "        slots, outputs = state.slots, state.outputs", "gradients reach segments long gone", (T + "test_rmat.py", "-k", "gradients")),
    Fault(M + "sha_rnn.py", "where=causal() & within(self.memory)", "where=causal()", "a memory has no end", suite("sha_rnn and limits")),
    Fault(M + "sha_rnn.py", "tuple(part.detach() for part in memory.parts)", "memory.parts", "gradients go back into what is remembered", (T + "test_sha_rnn.py", "-k", "gradient")),
    Fault(M + "sha_rnn.py", "        return torch.sigmoid(f) * torch.tanh(c)", "        return torch.sigmoid(f) * torch.sigmoid(c)", "values can't flip their sign", suite("sha_rnn-limits")),
    Fault(M + "pavlov.py", "write = \"delta\" if self.rule == \"delta\" else \"add\"", "write = \"add\"", "what was expected is written again", (T + "test_pavlov.py",)),
    Fault(M + "pavlov.py", "more = (strength - usual)", "more = (strength + usual)", "a usual response is written more strongly", suite("pavlov-limits")),
    Fault(M + "pavlov.py", "after, typical = torch.where(here[..., None, None], after, S), torch.where(here, typical, usual)", "pass", "padding is learned", suite("pavlov and padding")),
]  # fmt: skip
