"""Interventions that change nothing leave every family as it is; families outside the interface are refused."""

from __future__ import annotations

import pytest
import torch

from regard.errors import Unsupported
from regard.hf.applied import apply, check
from regard.hf.intervention import Intervention
from regard.hf.select import Sites
from regard.masks import everything
from tests.hf.apply.families import REFUSED, SERVED, build, result, tiny

# Attention of a pooling head in front of the encoder's output does not go through the interface.
WITHIN = {"siglip_vision_model": "encoder", "aimv2_vision_model": "encoder"}


class Watcher(Intervention):
    """Does nothing at every station but the cache, and notes that it was asked."""

    def __init__(self, within: str | None = None) -> None:
        self.sites = Sites(within=within)
        self.sums: list[float] = []
        self.sites_seen: set[str] = set()

    def inputs(self, site, q, k, v):
        self.sites_seen.add(site.name)
        return q, k, v

    def where(self, site, q, k):
        return everything

    def scores(self, site):
        return []

    def weights(self, site, rows):
        seen = rows.seen.expand_as(rows.weights).any(-1)
        self.sums.append(float((rows.weights.sum(-1) - seen.to(rows.weights.dtype)).abs().max()))

    def heads(self, site, out):
        return out


@torch.no_grad()
@pytest.mark.parametrize("name", SERVED)
def test_family(name: str) -> None:
    case = tiny(name)
    model = case.model

    def forward(inputs):
        return result(model(**inputs))

    def decoded():
        if case.prompt is None:
            return torch.zeros(0), torch.zeros(1)
        settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
        found = model.generate(**case.prompt, **settings, return_dict_in_generate=True, output_logits=True)
        return found.sequences, torch.stack(found.logits)

    expected, (greedy, steps) = forward(case.inputs), decoded()
    plain = forward(case.unpadded) if case.unpadded else None
    # Float32 noise of two layers on logits of this size: eager's own distance from float64 is of the same order.
    close = 1e-5 * max(1.0, float(expected.abs().max()))
    watcher = Watcher(WITHIN.get(name))
    for interventions in ((), (watcher,)):
        with apply(model, *interventions) as run:
            found, (found_greedy, found_steps) = forward(case.inputs), decoded()
            found_plain = forward(case.unpadded) if case.unpadded else None
        real = slice(None) if case.real is None or expected.shape[:2] != case.real.shape else case.real
        assert float((found - expected)[real].abs().max()) <= close
        assert torch.equal(found_greedy, greedy)
        assert float((found_steps - steps).abs().max()) <= close
        if plain is not None:
            assert float((found_plain - plain).abs().max()) <= close
        assert run.meter.density() == 1.0
    chosen = {site.name for site in run.sites if watcher.sites.selects(site.name, site.layer)}
    assert watcher.sites_seen == chosen
    sinks = 1.0 if name == "gpt_oss" else 1e-5  # gpt-oss gives part of each row to its sink
    assert max(watcher.sums) <= sinks


@pytest.mark.parametrize("name", REFUSED)
def test_families_outside_the_interface_are_refused_by_name(name: str) -> None:
    model = build(name)
    message = f"{name} does not use the attention interface of transformers"
    assert any(message in reason for reason in check(model))
    with pytest.raises(Unsupported, match=message):
        apply(model, Watcher())


def test_the_sweep_has_families_of_every_kind() -> None:
    kinds = {kind for kind, _ in SERVED.values()}
    assert len(SERVED) >= 90
    assert kinds == {"decoder", "encoder", "seq2seq", "t5", "speech", "vision", "audio"}


@pytest.mark.parametrize("name", WITHIN)
def test_a_model_that_is_only_partly_served_wants_the_sites_named(name: str) -> None:
    model = build(name)
    with pytest.raises(Unsupported, match="attention outside the interface; say which sites Watcher is for"):
        apply(model, Watcher())
