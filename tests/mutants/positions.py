"""Faults in what tells queries and keys where they are."""

from __future__ import annotations

from tests.mutants.fault import Fault

P = "regard/mechanisms/positions/"
T = "regard/mechanisms/rotary.py"
C = "regard/mechanisms/counted.py"
L = "regard/lens/frequencies.py"
LENS = ("tests/lens/test_frequencies.py",)


def suite(name: str) -> tuple[str, ...]:
    """The conformance suite for one position."""
    return "tests/testing/test_conformance.py", "-k", name


def own(*names: str) -> tuple[str, ...]:
    """The positions' own tests."""
    return tuple(f"tests/mechanisms/positions/test_{name}.py" for name in names)


FAULTS = [
    Fault(T, "pair = (a * cos - b * sin, b * cos + a * sin)", "pair = (a * cos + b * sin, b * cos - a * sin)", "rotary positions turn backwards", suite("rope and limits")),
    Fault(T, "return 1.0 / base ** (torch.arange(0, width, 2, device=like.device).to(wide) / width)", "return 1.0 / base ** (torch.arange(0, width, 2, device=like.device).to(wide) / (width - 2))", "rotary frequencies end at the base", suite("rope and limits")),
    Fault(T, "(x_wide[..., ::2], x_wide[..., 1::2]) if interleaved else x_wide.chunk(2, -1)", "x_wide.chunk(2, -1)", "interleaved pairs are halves", suite("rope and limits")),
    Fault(T, "return steps / factor * (1 - mix) + steps * mix", "return steps / factor * mix + steps * (1 - mix)", "llama3 slows the fast pairs", (*own("rope"), "tests/hf/test_lift.py")),
    Fault(T, "return base if width <= 2 else base * factor ** (width / (width - 2))", "return base * factor", "the NTK base grows too little", own("rope")),
    Fault(P + "rope.py", "usual = 0.1 * math.log(factor) + 1 if scaling == \"yarn\" else 1.0", "usual = 1.0", "yarn does not sharpen scores", (*own("rope"), "tests/hf/test_lift.py")),
    Fault(P + "p_rope.py", "return torch.cat([steps[:turning], steps.new_zeros(pairs - turning)])", "return torch.cat([steps.new_zeros(pairs - turning), steps[pairs - turning :]])", "the fastest pairs stay in place of the slowest", own("p_rope")),
    Fault(P + "p_rope.py", "math.floor(self.p * pairs + 1e-9)", "math.floor(self.p * pairs)", "rounding costs p-RoPE a pair", own("p_rope")),
    Fault(P + "p_rope.py", "steps = frequencies(2 * turning, self.base, like)", "pass", "partial RoPE keeps the frequencies of whole heads", own("p_rope")),
    Fault(P + "learned.py", "return tokens + self.table[positions.clamp(min=0)]", "return tokens + self.table[positions.clamp(min=0) * 0]", "every token has the first position", suite("learned")),
    Fault(P + "learned.py", "if last >= self.length:", "if False:", "a position past the table is not told", own("learned")),
    Fault(P + "sinusoidal.py", "torch.stack([angles.sin(), angles.cos()], -1)", "torch.stack([angles.cos(), angles.sin()], -1)", "sines and cosines change places", suite("sinusoidal and limits")),
    Fault(P + "sinusoidal.py", "if dim % 2:", "if False:", "a sine may lack its cosine", own("sinusoidal")),
    Fault(P + "alibi.py", "Slopes(heads=heads)", "Slopes([0.5] * heads)", "every head has the same slope", suite("alibi and limits")),
    Fault(P + "t5.py", "return (BucketBias(self.table, self.two_sided, self.two_sided + self.buckets // 2),)", "return (BucketBias(self.table, self.two_sided + self.buckets // 2, self.two_sided),)", "buckets before and after change places", suite("t5 and limits")),
    Fault(P + "t5.py", "along * (buckets - near)", "along * buckets", "far buckets are spread too thin", own("t5")),
    Fault(P + "tapa.py", ".abs().to(wide) ** self.alpha", ".abs().to(wide)", "the phase grows with the distance itself", suite("tapa and limits")),
    Fault(P + "tapa.py", "scores = qa @ ka.mT / math.sqrt(cut)", "scores = qa @ ka.mT / math.sqrt(q.shape[-1])", "the amplitude is scaled by the whole width", suite("tapa and limits")),
    Fault(P + "fope.py", "int((steps >= 2 * math.pi / length).sum())", "int((steps >= math.pi / length).sum())", "frequencies of half a period are kept", own("fope")),
    Fault(P + "fope.py", "values[:, pair * stride, pair] += 1", "values[:, pair * stride, pair] += 0", "a pair has lost its own frequency", own("fope")),
    Fault(C, "gates.masked_fill(~seen, 0.0).flip", "gates.flip", "later keys are counted", suite("cope and causal")),
    Fault(C, ".flip(-1).cumsum(-1).flip(-1)", ".cumsum(-1)", "keys are counted from the start of the text", own("cope")),
    Fault(C, "whole.gather(-1, below) * (1 - part) + whole.gather(-1, above) * part", "whole.gather(-1, below)", "fractions of positions are dropped", own("cope")),
    Fault(P + "harmonic.py", "return (HarmonicDecay(a / larger, (1 - a) / larger * slopes),)", "return (HarmonicDecay(a, (1 - a) * slopes),)", "the blend is not rescaled", own("harmonic")),
    Fault(P + "harmonic.py", "torch.digamma((i - j).abs().to(wide) + 1) + _EULER", "torch.digamma((i - j).abs().to(wide) + 1)", "the harmonic number of no distance is not zero", own("harmonic")),
    Fault(P + "harmonic.py", "slope / torch.arange(1, heads + 1, dtype=torch.float64)", "slope * 2 ** -torch.arange(1, heads + 1, dtype=torch.float64)", "harmonic slopes fall geometrically", suite("harmonic and limits")),
    Fault(P + "rcmha.py", "self.taps[:, kernel // 2 if same else -1] = 1.0", "self.taps[:, 0] = 1.0", "the convolution starts as a delay", own("rcmha")),
    Fault(P + "rcmha.py", "held = inner.held.append((k, v), call.k_at(k.shape[2]))", "held = inner.held.append((v, k), call.k_at(k.shape[2]))", "keys and values change places while decoding", suite("rcmha and decode")),
    Fault(P + "rcmha.py", "(q + self.place) @ split", "q @ split", "the global place vector is left out", suite("rcmha and gradients")),
    Fault(P + "cope.py", "keys = self.gate(k) if self.sep_key else k", "keys = k", "gates do without keys of their own", own("cope")),
    Fault(P + "cope.py", "far = far.clamp(0, self.relative - 1)", "far = far.clamp(0, 0)", "every ordinary distance is the first", own("cope")),
    Fault(P + "cope_values.py", "values = v.repeat_interleave", "values = k.repeat_interleave", "gates from values look at keys", own("cope")),
    Fault(P + "tapa.py", "return both / math.sqrt(q.shape[-1])", "return both", "the phase is not scaled by its width", own("tapa")),
    Fault(P + "fope.py", "steps = steps / self.factor", "steps = steps * self.factor", "longer texts turn faster in FoPE", own("fope")),
    Fault(P + "rcmha.py", "parts=(both.parts[0].detach(),)", "parts=both.parts", "a memory passes its gradient on", own("rcmha")),
    Fault(P + "rcmha.py", "Held(self.memory)", "Held()", "a memory never ends", own("rcmha")),
    Fault(P + "rcmha.py", "torch.where(alike, known[:, tap : tap + N], 0.0)", "known[:, tap : tap + N]", "a convolution reaches into another document", own("rcmha")),
    Fault(L, "(j == i - back)", "(j == i - 1)", "a head's own token is taken for the one before", LENS),
    Fault(L, "(2 * chosen, 2 * chosen + 1) if self.interleaved else (chosen, chosen + half)", "(2 * chosen, 2 * chosen + 1)", "other pairs are muted than were named", LENS),
    Fault(L, "torch.where(real, x, 0.0).sum((0, 2))", "x.sum((0, 2))", "padding counts as use of frequencies", LENS),
]  # fmt: skip
