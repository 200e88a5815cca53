"""Faults along the layers, and in layers that are passed more than once."""

from __future__ import annotations

from tests.mutants.fault import Fault

SUITE = "tests/testing/test_conformance.py"
AR = "regard/mechanisms/depth/attention_residuals.py"
RD = "regard/mechanisms/depth/residual_duality.py"
SW = "regard/mechanisms/depth/short_swa.py"
DD = "regard/mechanisms/depth/deep_delta.py"
DW = "regard/mechanisms/depth/depth_weights.py"
TH = "regard/mechanisms/depth/think_at_hard.py"
LO = "regard/backbones/looped.py"
RE = "regard/backbones/residuals.py"


def suite(name: str, check: str) -> tuple[str, ...]:
    return SUITE, "-k", f"{name} and {check}"


OWN = {
    name: (f"tests/mechanisms/depth/test_{name}.py",)
    for name in ("attention_residuals", "residual_duality", "deep_delta", "depth_weights", "think_at_hard")
}
LOOPED, RESIDUALS = ("tests/backbones/test_looped.py",), ("tests/backbones/test_residuals.py",)

FAULTS = [
    Fault(AR, "<= (number // size)[:, None]", "< (number // size)[:, None] + 2", "the residual reads a block that is not finished", suite("attention_residuals", "no")),
    Fault(AR, "return x * (x.square()", "return x + 0 * (x.square()", "keys of sources are not normed", OWN["attention_residuals"]),
    Fault(AR, "total = old * kept.total[:, :, place] + new", "total = kept.total[:, :, place] + new", "the second phase keeps the first one's scale", OWN["attention_residuals"]),
    Fault(AR, "place = at % (self.block_size or 1)", "place = 0", "every reader of a block asks what its first one asks", suite("attention_residuals", "decode")),
    Fault(RD, "F.pad(x, (0, 0, reach - 1, 0))", "F.pad(x, (0, 0, 0, reach - 1))", "the window over depth looks ahead", suite("residual_duality", "no")),
    Fault(RD, "(x[:, :, -self.window :] for x in kept)", "(x[:, :, -self.window - 1 :] for x in kept)", "the ring over depth keeps one state too many", OWN["residual_duality"]),
    Fault(RD, "* q.shape[-1] ** -0.5", "", "scores over depth are not scaled", OWN["residual_duality"]),
    Fault(SW, "order = (at >= 0).to(torch.int8)", "order = torch.zeros_like(at)", "the ring of the short window keeps padding", suite("short_swa", "decode")),
    Fault(SW, "return self.out(join(out)), self._latest(k, v, at)", "return self.out(join(out)), Latest(k, v, at)", "the short window forgets nothing", suite("short_swa", "state")),
    Fault(DD, "beta = 2 * torch.sigmoid", "beta = torch.sigmoid", "a deep delta never reflects", suite("deep_delta", "limits")),
    Fault(DD, "(value - held)", "value", "a deep delta adds without erasing", OWN["deep_delta"]),
    Fault(DD, "self._after(inner, self._compressed(inner, at - 1), F.normalize(new, dim=-1, eps=1e-5), at - 1)", "self._after(inner, self._compressed(inner, at), F.normalize(new, dim=-1, eps=1e-5), at)", "a deep delta takes the next layer's parameters", suite("deep_delta", "decode")),
    Fault(DW, "ones_like(held, dtype=torch.bool).triu(1)", "ones_like(held, dtype=torch.bool).triu(2)", "static weights read a later layer", suite("depth_weights", "no")),
    Fault(DW, "held.masked_fill(later, -torch.inf).softmax(-1)", "held.softmax(-1).masked_fill(later, 0.0)", "convex weights over depth do not sum to one", OWN["depth_weights"]),
    Fault(TH, "held = [slot for slot in slots[: iteration + 1]", "held = [slot for slot in slots[iteration : iteration + 1]", "a second pass sees second passes alone", OWN["think_at_hard"]),
    Fault(TH, "held = [slot for slot in slots[: iteration + 1]", "held = [slot for slot in slots", "a first pass sees the second passes before it", suite("think_at_hard", "decode")),
    Fault(TH, "at = torch.where(goes, at, -1)", "at = at.expand_as(goes)", "every token leaves a second pass behind", suite("think_at_hard", "limits")),
    Fault(TH, "return linear(x) + self.deeper[name](x) if iteration else linear(x)", "return linear(x)", "deeper iterations are not adapted", OWN["think_at_hard"]),
    Fault(TH, "hard + p - p.detach() if self.training else hard", "hard", "the choice to think gets no gradient", OWN["think_at_hard"]),
    Fault(LO, "goes = goes & (count == iteration)", "goes = goes & (count >= 0)", "padding is counted as passed again", LOOPED),
    Fault(LO, "torch.where(there, own + added, own)", "torch.where(there, added, own)", "a second pass replaces the first one's logits", LOOPED),
    Fault(LO, "places = torch.where(goes.gather(1, index), at.gather(1, index), -1)", "places = at.gather(1, index)", "tokens gathered beside a longer row are passed too", LOOPED),
    Fault(LO, "top = logits.softmax(-1).topk(self.best, -1)", "top = logits.topk(self.best, -1)", "a soft embedding is weighted by logits", LOOPED),
    Fault(RE, 'out if depth.feeds == "outputs" else h + out', "out", "a depth of states is fed outputs", RESIDUALS),
]  # fmt: skip
