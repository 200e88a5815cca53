"""What each station does, and several interventions together, against attention written out in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.edits import Bias, Softcap, Temperature
from regard.errors import ShapeError, Unsupported
from regard.hf.applied import apply
from regard.hf.intervention import Intervention
from regard.hf.select import Sites
from regard.masks import sinks, window
from regard.ops import View
from tests.hf.apply.families import build, result, tiny
from tests.hf.apply.models import Record, llama, prompt

LEAD = (4, 0)


def scores_of(call: dict) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Scaled scores [B, H, N, M], values [B, H, M, E], what is allowed, and the positions."""
    q, k, v, site = call["q"], call["k"], call["v"], call["site"]
    repeat = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(repeat, 1).transpose(-1, -2) * site.scale
    i, j = site.q_positions[:, None, :, None], site.k_positions[:, None, None, :]
    return scores, v.repeat_interleave(repeat, 1), (j <= i) & (j >= 0) & (i >= 0), i, j


def attention(scores: Tensor, values: Tensor, seen: Tensor) -> Tensor:
    weights = torch.exp(scores - scores.masked_fill(~seen, -torch.inf).amax(-1, keepdim=True).clamp(min=-1e30))
    weights = torch.where(seen, weights, 0.0)
    return (weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)) @ values


def run(*interventions: Intervention, padding: tuple[int, ...] = LEAD) -> list[dict]:
    """The calls of one forward pass, as the last intervention saw them."""
    model, record = llama(), Record()
    with torch.no_grad(), apply(model, *interventions, record):
        model(**prompt(padding=padding))
    return record.calls


def near(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).abs().max()) <= 64 * 2**-23 * float(expected.abs().max())


class Near(Intervention):
    def where(self, site, q, k):
        return window(5)


class Start(Intervention):
    def where(self, site, q, k):
        return window(2) | sinks(3)


class Hot(Intervention):
    def __init__(self, t: float = 2.0):
        self.t = t

    def scores(self, site):
        return Temperature(self.t)


class Capped(Intervention):
    def scores(self, site):
        return [Softcap(0.5)]


def test_positions_leave_out_padding() -> None:
    call = run()[0]
    site = call["site"]
    assert site.q_positions.tolist() == [[-1] * 4 + list(range(8)), list(range(12))]
    assert site.k_positions.tolist() == site.q_positions.tolist()
    assert repr(site.base) == "causal()"
    assert (site.heads, site.groups, site.width, site.value_width) == (4, 2, 8, 8)
    scores, values, seen, _, _ = scores_of(call)
    assert near(call["out"], attention(scores, values, seen))
    assert not call["out"][0, :, :4].any()  # queries that are padding give zeros


def test_wheres_are_intersected_with_what_the_model_allows() -> None:
    for call in run(Near(), Start()):
        scores, values, seen, i, j = scores_of(call)
        seen = seen & (i - j < 5) & ((i - j < 2) | (j < 3))
        assert near(call["out"], attention(scores, values, seen))


def test_edits_act_in_the_order_given() -> None:
    outs = []
    for order in ((Hot(), Capped()), (Capped(), Hot())):
        call = run(*order)[0]
        scores, values, seen, _, _ = scores_of(call)
        if isinstance(order[0], Hot):
            edited = 0.5 * torch.tanh(scores / 2 / 0.5)
        else:
            edited = 0.5 * torch.tanh(scores / 0.5) / 2
        assert near(call["out"], attention(edited, values, seen))
        outs.append(call["out"])
    assert not torch.allclose(*outs)


def test_edits_come_after_the_models_own() -> None:
    model, record = build("gemma2"), Record()
    with torch.no_grad(), apply(model, Hot(), record):
        model(**prompt())
    call = record.calls[1]
    assert model.config.layer_types[1] == "full_attention"
    scores, values, seen, _, _ = scores_of(call)
    assert near(call["out"], attention(2.0 * torch.tanh(scores / 2.0) / 2.0, values, seen))


def test_inputs_are_changed_in_the_order_given() -> None:
    class Scale(Intervention):
        def inputs(self, site, q, k, v):
            return q * 2, k + 1, v

    class Twice(Intervention):
        def inputs(self, site, q, k, v):
            return q, k * 2, v * 3

    plain = run()[0]
    call = run(Scale(), Twice())[0]
    assert torch.equal(call["q"], plain["q"] * 2)
    assert near(call["k"], (plain["k"] + 1) * 2)
    assert near(call["v"], plain["v"] * 3)
    scores, values, seen, _, _ = scores_of(call)
    assert near(call["out"], attention(scores, values, seen))


def test_weights_are_seen_and_replaced_in_the_order_given() -> None:
    sums = []

    class Last(Intervention):
        """All weight on the newest key that is seen."""

        def weights(self, site, rows):
            n, m = rows.weights.shape[2:]
            index = torch.arange(m).expand(*rows.weights.shape[:2], n, m)
            newest = index.masked_fill(~rows.seen.expand_as(rows.weights), -1).amax(-1, keepdim=True)
            return ((index == newest) & rows.seen).to(rows.weights.dtype)

    class Half(Intervention):
        def weights(self, site, rows):
            sums.append(float(rows.weights.amax()))
            return rows.weights / 2

    call = run(Last(), Half())[0]
    assert sums[0] == 1.0
    expected = call["v"].repeat_interleave(2, 1) / 2
    expected[0, :, :4] = 0
    assert near(call["out"], expected)


def test_heads_are_seen_and_replaced_in_the_order_given() -> None:
    class Double(Intervention):
        def heads(self, site, out):
            return out * 2

    class Less(Intervention):
        def heads(self, site, out):
            return out - 1

    plain = run()[0]
    assert near(run(Double(), Less())[0]["out"], plain["out"] * 2 - 1)
    assert near(run(Less(), Double())[0]["out"], (plain["out"] - 1) * 2)


@pytest.mark.parametrize("station", ["where", "scores", "weights", "heads"])
def test_an_intervention_for_some_heads_leaves_the_others(station: str) -> None:
    class Some(Intervention):
        sites = Sites(heads=[1, 2])

    def act(self, site, *rest):
        return {
            "where": lambda: window(2),
            "scores": lambda: Temperature(3.0),
            "weights": lambda: rest[0].weights * 0,
            "heads": lambda: rest[0] + 5,
        }[station]()

    setattr(Some, station, act)
    call = run(Some())[0]
    scores, values, seen, i, j = scores_of(call)
    plain = attention(scores, values, seen)
    changed = {
        "where": lambda: attention(scores, values, seen & (i - j < 2)),
        "scores": lambda: attention(scores / 3, values, seen),
        "weights": lambda: plain * 0,
        "heads": lambda: plain + 5,
    }[station]()
    for h in range(4):
        assert near(call["out"][:, h], (changed if h in (1, 2) else plain)[:, h])
    assert not near(changed[:, 1], plain[:, 1])


def test_heads_may_differ_by_layer() -> None:
    class Some(Intervention):
        sites = Sites(heads={1: [3]})

        def heads(self, site, out):
            return torch.zeros_like(out)

    first, second = run(Some())
    assert all(first["out"][:, h].any() for h in range(4))
    assert [bool(second["out"][:, h].any()) for h in range(4)] == [True, True, True, False]


def test_a_head_that_does_not_exist_is_named_before_running() -> None:
    class Some(Intervention):
        sites = Sites(heads=[4])

        def heads(self, site, out):
            return out

    with pytest.raises(
        Unsupported, match=r"Some: sites.heads names head 4, but model.layers.0.self_attn has 4 \(0 to 3"
    ):
        apply(llama(), Some())


def test_views_score_some_pairs_with_other_queries() -> None:
    class Far(Intervention):
        def views(self, site, q, k):
            return [View(~window(3), q * 2, k - 1)]

    for call in run(Far()):
        scores, values, seen, i, j = scores_of(call)
        other = (call["q"] * 2) @ (call["k"] - 1).repeat_interleave(2, 1).transpose(-1, -2) * call["site"].scale
        assert near(call["out"], attention(torch.where(i - j < 3, scores, other), values, seen))

    class Further(Far):
        pass

    with pytest.raises(Unsupported, match="self_attn: Far and Further both score pairs with turned queries or keys"):
        run(Far(), Further())


def test_a_bias_by_slot_goes_with_padding() -> None:
    bias = torch.randn(1, 4, 12, 12, generator=torch.Generator().manual_seed(0))

    class Biased(Intervention):
        def scores(self, site):
            return Bias(bias)

    call = run(Biased())[0]
    scores, values, seen, _, _ = scores_of(call)
    assert near(call["out"], attention(scores + bias, values, seen))


def test_phases_and_layers() -> None:
    class Seen(Intervention):
        def __init__(self, **where):
            self.sites = Sites(**where)
            self.calls = []

        def heads(self, site, out):
            self.calls.append((site.phase, site.layer, site.N))

    watchers = [Seen(phase="prefill", layers=[0]), Seen(phase="decode", within="layers.1"), Seen(layers=[1])]
    with torch.no_grad(), apply(llama(), *watchers) as held:
        held.model.generate(**prompt(), max_new_tokens=3, min_new_tokens=3, do_sample=False)
    assert watchers[0].calls == [("prefill", 0, 12)]
    assert watchers[1].calls == [("decode", 1, 1)] * 2
    assert watchers[2].calls == [("prefill", 1, 12), ("decode", 1, 1), ("decode", 1, 1)]


def test_cross_attention_alone() -> None:
    case, calls = tiny("bart"), []

    class Cross(Intervention):
        sites = Sites(kind="cross", within="decoder")

        def where(self, site, q, k):
            calls.append((site.name, site.kind, site.phase, site.q_positions.tolist(), site.k_positions.tolist()))
            return sinks(3)

    with torch.no_grad(), apply(case.model, Cross()) as held:
        result(case.model(**case.inputs))
        case.model.generate(**case.prompt, max_new_tokens=3, min_new_tokens=3, do_sample=False)
    queries, keys = list(range(6)), list(range(8)) + [-1] * 4
    assert calls[0] == ("model.decoder.layers.0.encoder_attn", "cross", "prefill", [queries], [keys, list(range(12))])
    assert {(kind, phase) for _, kind, phase, _, _ in calls} == {("cross", "prefill"), ("cross", "decode")}
    assert calls[-1][3] == [[2]]
    records = list(held.meter.select())
    assert {round(r.density, 3) for r in records if "encoder_attn" in r.name} == {round(6 / 20, 3)}
    assert {r.density for r in records if "encoder_attn" not in r.name} == {1.0}


@pytest.mark.parametrize(
    ("station", "given", "message"),
    [
        ("inputs", lambda q, k, v: (q[:, :1], k, v), r"Bad.inputs must keep shape and dtype; got \[2, 1, 12, 8\]"),
        ("weights", lambda rows: rows.weights.double(), "Bad.weights must keep shape and dtype.*float64"),
        ("heads", lambda out: out[..., :1], "Bad.heads must keep shape and dtype"),
    ],
)
def test_results_of_another_shape_are_refused(station: str, given, message: str) -> None:
    class Bad(Intervention):
        pass

    setattr(Bad, station, lambda self, site, *rest: given(*rest))
    with pytest.raises(ShapeError, match=message):
        run(Bad())


@torch.no_grad()
def test_an_observer_changes_nothing_beside_another_intervention() -> None:
    model, inputs = llama(), prompt(padding=LEAD)
    with apply(model, Near()):
        expected = model(**inputs).logits

    class Reads(Intervention):
        def weights(self, site, rows):
            return None

    with apply(model, Near(), Reads()) as held:
        found = model(**inputs).logits
    assert held.meter.engines() == {"rows": 2}
    assert torch.allclose(found, expected, atol=1e-5)
