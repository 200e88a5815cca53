"""Faults in linear attention: pooled features, polynomials, rectified products, circles, latents, bells and agents."""

from __future__ import annotations

from tests.mutants.fault import Fault

_L = "regard/mechanisms/linear"
_SUITE = "tests/testing/test_conformance.py"


def _own(name: str, *words: str) -> tuple[str, ...]:
    return (f"tests/mechanisms/linear/test_{name}.py", *(("-k", " or ".join(words)) if words else ()))


def _suite(name: str, check: str) -> tuple[str, ...]:
    return (_SUITE, "-k", f"{name}-{check}")


E, F, V = f"{_L}/efficient_attention.py", f"{_L}/fastmax.py", f"{_L}/l2vit.py"
C, R, G, A = f"{_L}/cat.py", f"{_L}/flare.py", f"{_L}/gaam.py", f"{_L}/agent_attention.py"

FAULTS = [
    Fault(E, "return q.to(_wide(q)).softmax(-1)", "return q.to(_wide(q)).softmax(2)", "efficient attention's queries are shares of the tokens", _own("efficient_attention", "implied")),
    Fault(E, "return softmax.weights(k.transpose(-1, -2), seen)", "return softmax.weights(k.transpose(-1, -2) / k.shape[-1] ** 0.5, seen)", "efficient attention scales its keys", _own("efficient_attention", "feature")),
    Fault(E, "seen = (call.q_at(q.shape[2], k.shape[2]) + 1)", "seen = (call.q_at(q.shape[2], k.shape[2]) + 2)", "a step of scaled products counts one token too many", (_SUITE, "-k", "efficient_attention and scaling and step")),
    Fault(F, "torch.where(a == b, 1.0, 2.0)", "torch.where(a == b, 1.0, 1.0)", "products of two different features count once", _own("fastmax", "shares")),
    Fault(F, "return ahead + behind.flip(2) - sum(", "return ahead + behind.flip(2) - 0 * sum(", "a token of a packed document counts itself twice", _suite("fastmax", "packed")),
    Fault(F, "x = x.masked_fill(~real[:, None, :, None], 0.0)\n            return x / x.norm", "pass\n            return x / x.norm", "padding sets the greatest length", _own("fastmax", "greatest")),
    Fault(F, "state=None if values is None else Memory(values, total),", "state=None,", "each span of tokens starts from nothing", _own("fastmax", "spans")),
    Fault(V, "sums[..., -1:].clamp(min=self.min_denominator)", "(sums[..., -1:] + self.min_denominator)", "the bound of the denominator is added to it", _own("l2vit", "bound")),
    Fault(V, "q.to(wide).relu(), k.to(wide).relu()", "q.to(wide), k.to(wide).relu()", "linear global attention leaves queries negative", _own("l2vit", "answers")),
    Fault(V, "(0, 0, 0, -w % s, 0, -h % s)", "(0, 0, -w % s, 0, -h % s, 0)", "windows are filled up above and to the left", _own("l2vit", "windows")),
    Fault(C, "torch.fft.rfft(w, n, 2).conj() *", "torch.fft.rfft(w, n, 2) *", "the circle turns the other way", _own("cat", "transform")),
    Fault(C, "n = K if real is None else 2 * K", "n = K", "a short row's circle has the length of the longest", _suite("cat", "padding")),
    Fault(C, "running = sums[:, :, None] + keys.cumsum(2)", "running = sums[:, :, None] + keys", "a step averages the last key of each chunk", (_SUITE, "-k", "cat and averaged and step")),
    Fault(R, "scale=self.scale, q_positions=mine", "q_positions=mine", "latents gather at another scale than tokens read", _own("flare", "rank")),
    Fault(R, "scores.softmax(2).transpose(-1, -2) @ scores.softmax(-1))", "scores.softmax(2).transpose(-1, -2) @ scores.softmax(2))", "the spectrum is of the gathering alone", _own("flare", "spectrum")),
    Fault(R, "at = call.k_at(k.shape[2])", "at = torch.zeros(1, k.shape[2], dtype=torch.int64)", "latents gather padding", _suite("flare", "padding")),
    Fault(G, "shift).square() / (2 * width.square())", "shift).square() / width.square()", "bells are half as wide as said", _own("gaam", "stretches")),
    Fault(G, "powers / each(total(powers))", "powers / total(powers).sum(1, keepdim=True)", "weights are shares of all documents together", _suite("gaam", "packed")),
    Fault(G, "if real is None else torch.where(real, out, x)", "", "what is not real does not pass as it is", _own("gaam", "not_real")),
    Fault(A, "end = -(-(a + 1) * count[:, None] // self.agents)", "end = (a + 1) * count[:, None] // self.agents", "stretches of queries end too early", _suite("agent_attention", "limits")),
    Fault(A, "out = (second.to(gathers.dtype).softmax(-1) @ read)", "out = (second.to(gathers.dtype).softmax(-2) @ read)", "agents choose their queries", _own("agent_attention", "one_agent", "queries_of_zero")),
    Fault(A, "return out + F.pad(near, (0, 0, beside, 0))", "return out + F.pad(near, (0, 0, 0, beside))", "convolved values lie one token early beside a class token", _own("agent_attention", "class_token")),
]  # fmt: skip
