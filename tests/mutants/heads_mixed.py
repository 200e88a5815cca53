"""Faults in layers whose heads are of several kinds, or fewer than there is room for."""

from __future__ import annotations

from tests.mutants.fault import Fault

HEADS, ORACLES = "regard/mechanisms/heads", "tests/testing/test_conformance.py"
RECOMMENDER, ITEMS = "regard/backbones/recommender.py", "tests/backbones/test_recommender.py"


def _suite(which: str) -> tuple[str, ...]:
    return (ORACLES, "-k", which)


def _own(name: str) -> tuple[str, ...]:
    return (f"tests/mechanisms/heads/test_{name}.py",)


FAULTS = [
    Fault(f"{HEADS}/sqa.py", "repeat_interleave(self.heads // self.q_heads, 1)", "repeat(1, self.heads // self.q_heads, 1, 1)", "reversed query heads are dealt round in turn", _own("sqa")),
    Fault(f"{HEADS}/sqa.py", "merge.unflatten(1, (q_heads, -1, D)).sum(2)", "merge.unflatten(1, (q_heads, -1, D)).mean(2)", "columns of merged query heads are averaged, not added", _own("sqa")),
    Fault(f"{HEADS}/sqa.py", "4 * self.heads * N * M", "4 * self.kv_heads * N * M", "operations are counted by key heads", _own("sqa")),
    Fault(f"{HEADS}/dual_attention.py", "related = ACTIVATIONS[self.activation](products).masked_fill(~seen, 0.0)", "related = products.masked_fill(~seen, 0.0)", "relations skip their activation", _suite("dual_attention-limits")),
    Fault(f"{HEADS}/dual_attention.py", "(j[:, None, :] - i[:, :, None])", "(i[:, :, None] - j[:, None, :])", "relative symbols look the other way", _suite("dual_attention-limits")),
    Fault(f"{HEADS}/dual_attention.py", "products = products.masked_fill(~seen, torch.finfo(products.dtype).min)", "pass", "normalised relations count hidden tokens", _own("dual_attention")),
    Fault(f"{HEADS}/dual_attention.py", "self._mix(call.with_(k_positions=held.positions), held.parts), held", "self._mix(call.with_(k_positions=held.positions), held.parts), inner", "relational steps forget their tokens", _suite("dual_attention-decode and step")),
    Fault(f"{HEADS}/dual_attention.py", "q = self._turned(split(self.q_attn(call.tokens), self.relational_heads), at)", "q = split(self.q_attn(call.tokens), self.relational_heads)", "relational queries are not turned while their keys are", _suite("dual_attention-limits")),
    Fault(f"{HEADS}/dual_attention.py", "keys, places = torch.cat([before.parts[-1], keys], 2), beside(before.positions, at)", "pass", "relational symbols of a step forget the tokens before it", _suite("dual_attention and step")),
    Fault(f"{HEADS}/dual_attention.py", "there = there & (of == documents[:, :, None])", "pass", "neighbours are of another document", _suite("dual_attention and packed")),
    Fault(f"{HEADS}/dual_attention.py", "there = there & (offsets < 0)", "pass", "relational symbols of a causal call look ahead", _own("dual_attention")),
    Fault(f"{HEADS}/grouped_time_attention.py", "(at - at[:, None] + T - 1)", "(at[:, None] - at + T - 1)", "distances of groups are turned round", _suite("grouped_time_attention-limits")),
    Fault(f"{HEADS}/grouped_time_attention.py", "torch.where(there, torch.arange(there.shape[1], device=x.device), -1)", "None", "groups of padding are read", _suite("grouped_time_attention-padding")),
    Fault(f"{HEADS}/grouped_time_attention.py", "torch.arange(N - 1 - half, group % 2 - 1, -1", "torch.arange(N - 1 - half, 0, -1", "even groups have zero once", _suite("grouped_time_attention-limits")),
    Fault(f"{HEADS}/mqsa_ted.py", "clamp(max=window)", "clamp(min=window)", "the first means are over tokens that are not there", _suite("mqsa_ted-limits")),
    Fault(f"{HEADS}/mqsa_ted.py", "(known >= 0).expand(rows, -1)", "(known < -1).expand(rows, -1)", "queries of a step forget the inputs before it", _suite("mqsa_ted and step")),
    Fault(f"{HEADS}/mqsa_ted.py", "packed = tokens.gather(1, order[..., None].expand_as(tokens)).masked_fill(~there, 0.0)", "packed = tokens.masked_fill(~there, 0.0)", "means run over padding", _suite("mqsa_ted-padding")),
    Fault(f"{HEADS}/mqsa_ted.py", "seen.amax(1, keepdim=True).clamp(min=1e-24)", "seen.sum(1, keepdim=True).clamp(min=1e-24)", "transition counts are divided by their sum", _own("mqsa_ted")),
    Fault(f"{HEADS}/mqsa_ted.py", "unfold(1, size, 1) == ids[..., None]", "unfold(1, size, 1) >= 0", "means run over the edges of documents", _suite("mqsa_ted-packed")),
    Fault(RECOMMENDER, "(1 - self.alpha) * (long @ self.embedding.T)", "(1 - self.alpha) * (short @ self.embedding.T)", "the long branch is not asked", (ITEMS,)),
    Fault(RECOMMENDER, "self.norm(join(weights @ v) + mean)", "self.norm(join(weights @ v) + call.tokens)", "a block adds its input rather than the query's", (ITEMS,)),
    Fault(RECOMMENDER, "known = (given >= 0) & (wanted >= 0)", "known = (given >= 0) | (wanted >= -1)", "the loss counts padding", (ITEMS,)),
    Fault(RECOMMENDER, "hidden.scatter_reduce(1, ids.clamp(min=0), ids >= 0, \"amax\")", "hidden", "old items are recommended again", (ITEMS,)),
    Fault(f"{HEADS}/sdconv.py", "q = q * F.linear(", "q = q + F.linear(", "span keys are added to queries", _suite("sdconv-limits")),
    Fault(f"{HEADS}/sdconv.py", "sides = (self.kernel - 1, 0) if call.causal else (whole, whole)", "sides = (whole, whole)", "causal convolutions look ahead", _suite("sdconv-causal")),
    Fault(f"{HEADS}/sdconv.py", "self.value(packed).masked_fill(hidden, 0.0)", "self.value(packed)", "padding has the bias for a value", ("tests/testing/test_conformance.py", "-k", "sdconv and padding")),
    Fault(f"{HEADS}/sdconv.py", "last = real.to(torch.int8).argsort(dim=1, stable=True)[:, x.shape[1] - before :]", "last = torch.arange(x.shape[1] - before, x.shape[1]).expand(x.shape[0], -1)", "a convolution's state keeps padding", _own("sdconv")),
    Fault(f"{HEADS}/mw_mha.py", "seen = seen & (off >= 0)", "seen = seen & (off >= -1)", "a block looks one token ahead", _suite("mw_mha-causal")),
    Fault(f"{HEADS}/mw_mha.py", "return chunks(w)", "return everything", "blocks by mask have no edges", _own("mw_mha")),
    Fault(f"{HEADS}/mw_mha.py", "return w - w // 2 if self.shift and w > 1 else 0", "return w // 2 if self.shift and w > 1 else 0", "shifted blocks begin too late by one where windows are odd", _suite("mw_mha-limits")),
    Fault(f"{HEADS}/mw_mha.py", "document * (N + w) + ", "document * 0 + ", "blocks of packed documents run into each other", _suite("mw_mha and packed")),
    Fault(f"{HEADS}/mw_mha.py", "| (i < 0) | (j < 0)", "| (j < 0)", "tokens beside the blocks see their own kind alone where pairs are masked", _own("mw_mha")),
    Fault(f"{HEADS}/mw_mha.py", "return weights[..., : more.shape[-1]] @ values + weights", "return weights", "blocks do not read the tokens beside them", _suite("mw_mha-limits")),
    Fault("regard/lens/distances.py", "weights = ((of_x @ turn).T @ x).abs().sum(1)", "weights = ((of_x @ turn).T @ of_x).abs().sum(1)", "canonical correlations are weighed alike", ("tests/lens/test_distances.py",)),
    Fault("regard/bench/studies/mqsa_ted.py", "1 / torch.log2(rank + 2)", "1 / torch.log2(rank + 1)", "gains are counted from the second rank", ("tests/bench/studies/test_mixed_heads.py", "-k", "gains")),
    Fault(f"{HEADS}/mw_mha.py", "+ off + w - 1][:, None]", "- off + w - 1][:, None]", "biases of blocks are turned round", _suite("mw_mha-limits")),
]  # fmt: skip
