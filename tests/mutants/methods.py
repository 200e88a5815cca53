"""Faults in methods, and in what compares them."""

from __future__ import annotations

from tests.mutants.fault import Fault

CHOOSING = ("tests/methods/test_choosing.py",)
STREAMING = ("tests/methods/test_streaming.py",)
REGISTRY = ("tests/methods/test_registry.py",)
MASKED = "tests/methods/test_masked.py"
POWER = (MASKED, "-k", "prefill and power")
SPARGE = (MASKED, "-k", "prefill and sparge")
BLOCKS = ("tests/methods/test_oracle_blocks.py",)
COMPARE = ("tests/bench/test_compare.py",)
RESUME = ("tests/bench/test_resume.py",)
STATISTICS = ("tests/bench/test_statistics.py",)
NEEDLES = ("tests/bench/test_needles.py",)
TYPED = ("tests/cli/test_compare.py",)
S = "regard/methods/sparse/"
C = "regard/methods/cache/"
B = "regard/bench/"

FAULTS = [
    Fault(S + "moba.py", "scores = scores.masked_fill(place == own, torch.inf)", "scores = scores.clone()", "moba may leave out a query's own block", CHOOSING),
    Fault(S + "moba.py", "(place > own) |", "(place > own + 1) |", "moba chooses a block that is ahead", CHOOSING),
    Fault(S + "moba.py", "means.repeat_interleave(share, 1)", "means.repeat(1, share, 1, 1)", "moba's gate reads another group's keys", (MASKED, "-k", "prefill and moba")),
    Fault(S + "moba.py", "if self.top_k >= count:", "if self.top_k + 1 >= count:", "moba is dense one block too early", ("tests/methods/test_identity.py", "-k", "moba")),
    Fault(S + "pooling.py", "return sums[:, :, :count] / held.clamp(min=1).unsqueeze(-1), held", "return sums[:, :, :count], held", "means are sums", CHOOSING),
    Fault(S + "pooling.py", "place = torch.where(real, positions // block, count)", "place = torch.where(real, positions // block, 0)", "padding is pooled into the first block", (MASKED, "-k", "padding and moba")),
    Fault(S + "pooling.py", "place = torch.where(positions >= 0, positions, length)", "place = torch.where(positions >= 0, length - 1 - positions, length)", "padded rows are chosen for in the wrong order", (MASKED, "-k", "padding and moba")),
    Fault(S + "oracle_top_k.py", "best = scores.topk(self.k, -1)", "best = scores.topk(self.k, -1, largest=False)", "the oracle takes the worst keys", CHOOSING),
    Fault(S + "oracle_top_k.py", "seen = site.base.at(b, h, i, at_k) & (at_k >= 0) & (i >= 0)", "seen = (at_k >= 0) & (i >= 0) & (b == b) & (h == h)", "the oracle spends its keys on the future", CHOOSING),
    Fault(S + "oracle_top_k.py", "index[:, :, start : start + scores.shape[2]] =", "index[:, :, : scores.shape[2]] =", "the oracle forgets all but the last queries", CHOOSING),
    Fault(S + "oracle_top_k.py", "mass.masked_fill(own, torch.inf)", "mass", "the oracle's blocks may leave out their own", BLOCKS),
    Fault(S + "random_blocks.py", "wanted = (keep * I).ceil()", "wanted = (keep * I).floor()", "random blocks keep too few", CHOOSING),
    Fault(S + "random_blocks.py", "(seed * 8191 + layer)", "(seed * 8191)", "every layer draws the same blocks", CHOOSING),
    Fault(S + "random_blocks.py", "(h * 1_000_003 + I[:, None])", "(I[:, None])", "every head draws the same blocks", CHOOSING),
    Fault(S + "random_blocks.py", "(h * 1_000_003 + I[:, None]) * 1_000_003 + I)", "(h * 1_000_003 + I[:, None]) * count + I)", "random rows depend on the length", CHOOSING),
    Fault(S + "random_blocks.py", "| (I[:, None] == I)).unsqueeze(0)", ").unsqueeze(0)", "random blocks leave out their own", CHOOSING),
    Fault(S + "spargeattn.py", "before = ordered.cumsum(-1) - ordered", "before = ordered.cumsum(-1)", "spargeattn stops one block early", CHOOSING),
    Fault(S + "spargeattn.py", "smooth = k - block_means(k, at_k, int(at_k.max()) + 1, 1)[0].to(k.dtype)", "smooth = k", "spargeattn keeps the mean of all keys", CHOOSING),
    Fault(S + "spargeattn.py", "smooth = k - block_means(k, at_k, int(at_k.max()) + 1, 1)[0].to(k.dtype)", "smooth = k - k.mean(2, keepdim=True)", "spargeattn takes padding into the mean of all keys", (MASKED, "-k", "padding and sparge")),
    Fault(S + "spargeattn.py", ".sum(-1) > self.theta", ".sum(-1) < self.theta", "spargeattn trusts the wrong means", CHOOSING),
    Fault(S + "spargeattn.py", "| ~alike_k.unsqueeze(-2) | (tiles == PARTIAL) | own", "| (tiles == PARTIAL) | own", "spargeattn skips blocks whose mean says nothing", CHOOSING),
    Fault(S + "spargeattn.py", "| (tiles == PARTIAL) | own", "| own", "spargeattn skips the edge of a model's own window", SPARGE),
    Fault(S + "spargeattn.py", "| (tiles == PARTIAL) | own", "| (tiles == PARTIAL)", "spargeattn leaves a query without keys", CHOOSING),
    Fault(S + "spargeattn.py", "* (site.scale or q.shape[-1] ** -0.5)", "", "spargeattn pools without the scale", CHOOSING),
    Fault(S + "spargeattn.py", 'if site.phase == "decode" or', "if", "spargeattn skips while decoding", CHOOSING),
    Fault(S + "power_attention.py", "return power(self.block, self.window, self.sinks)", "return power(self.block, self.window)", "power_attention forgets its sinks", POWER),
    Fault(S + "power_attention.py", "return power(self.block, self.window, self.sinks)", "return power(1, self.block * self.window, self.block * self.sinks)", "power_attention's distances are in tokens", POWER),
    Fault(C + "sliding_window.py", "else window_mask(self.window)", "else window_mask(self.window + 1)", "the window is one key too wide", (MASKED, "-k", "sliding")),
    Fault(C + "sliding_window.py", "return Window(self.window)", "return Window(self.window, 1)", "the window's cache keeps a key too many", COMPARE),
    Fault(C + "streaming_llm.py", "site.rotate(q, -gap)", "site.rotate(q, gap)", "queries turn away from the sinks", STREAMING),
    Fault(C + "streaming_llm.py", "gap[0].expand(len(slots))", "-gap[0].expand(len(slots))", "sinks turn away from the query", STREAMING),
    Fault(C + "streaming_llm.py", "k = k.clone()", "k = k[:]", "sinks are turned in the cache itself", STREAMING),
    Fault(C + "streaming_llm.py", "(self.window + self.sinks - 1)", "(self.window - 1)", "positions inside the cache leave out the sinks", STREAMING),
    Fault(C + "streaming_llm.py", "return Window(self.window, self.sinks)", "return Window(self.window)", "the cache keeps no sinks", STREAMING),
    Fault(C + "streaming_llm.py", "(self.window + self.sinks - 1)).clamp(min=0)", "(self.window + self.sinks - 1))", "queries turn before anything is let go", STREAMING),
    Fault(C + "streaming_llm.py", "if not (self.in_cache_positions and self.sinks):\n            return []", "if True:\n            return []", "models that do not rotate are not refused", STREAMING),
    Fault("regard/core/typed.py", "if key in settings:", "if False:", "a setting may be given twice", REGISTRY),
    Fault("regard/methods/registry.py", "_right_kind(name, fields[setting], settings[setting])", "pass", "settings of the wrong kind are taken", REGISTRY),
    Fault("regard/methods/method.py", "return short if float(short) == value else repr(value)", "return short", "labels round settings", REGISTRY),
    Fault("regard/methods/method.py", "if not value >= bound:", "if not value > bound - 2:", "settings may be out of range", REGISTRY),
    Fault(B + "quality.py", "kls.append((theirs.exp() * (theirs - ours)).sum(-1))", "kls.append((ours.exp() * (ours - theirs)).sum(-1))", "the divergence is the other way round", COMPARE),
    Fault(B + "quality.py", "targets = ids[1:].to(hidden.device)", "targets = ids[:-1].to(hidden.device)", "tokens are predicted from themselves", COMPARE),
    Fault(B + "compare.py", 'base["density"] <= row["density"] * 1.02', 'base["density"] >= row["density"] * 1.02', "baselines with more keys are held against a method", COMPARE),
    Fault(B + "compare.py", "todo = [method for method in methods if method.label not in done]", "todo = list(methods)", "resuming measures everything again", COMPARE),
    Fault(B + "compare.py", '("text", ("sha256",)),', "", "another text is gone on with", COMPARE),
    Fault(B + "compare.py", "if asked in (0, length) else []", "if True else []", "a stream of another length is kept", RESUME),
    Fault(B + "compare.py", "return a is not None and b is not None and a < b", "return a < b", "a figure that is null stops the comparison", RESUME),
    Fault(B + "stream.py", "losses, spent, counted = [], 0.0, 0\n    return", "spent, counted = 0.0, 0\n    return", "a stretch of a stream has the losses of those before it", COMPARE),
    Fault(B + "stream.py", "targets = endless[start + 1 : stop + 1]", "targets = endless[start:stop]", "a stream predicts tokens from themselves", COMPARE),
    Fault(B + "statistics.py", "count = max(1, len(losses) // block)", "count = len(losses)", "neighbours are resampled as if independent", STATISTICS),
    Fault(B + "statistics.py", "tail = (1 - level) / 2", "tail = (1 - level) * 4", "intervals are too narrow", STATISTICS),
    Fault(B + "needles.py", '"correct": guess == answer', '"correct": guess[:1] == answer[:1]', "a needle is found by its first token", NEEDLES),
    Fault(B + "needles.py", "copy.deepcopy(past)", "past", "questions are left in the haystack", NEEDLES),
    Fault(B + "timing.py", "if ours > margin * theirs:", "if ours > margin * theirs and found:", "break-even is where a method is slower", STATISTICS),
    Fault(B + "subject.py", "return found if cap is None else torch.tanh(found / cap) * cap", "return found", "soft-capped logits are not capped", ("tests/bench/test_subject.py",)),
    Fault(B + "store.py", "if isinstance(value, float) and not math.isfinite(value):", "if False:", "NaN reaches the JSON", ("tests/bench/test_store.py",)),
    Fault(B + "report/files.py", "        with contextlib.suppress(OSError):\n            os.unlink(passing)\n", "", "a failed write leaves its half behind", RESUME),
    Fault("regard/cli/compare.py", "if not resume and _stamp(saved) == before:", "if False:", "rows are promised that are not there", TYPED),
]  # fmt: skip
