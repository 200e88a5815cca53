"""Hybrids: mechanisms that take turns, layer by layer."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from regard.bench.train.entrant import entrants, rehearse
from regard.bench.train.run import run
from regard.errors import RegardError
from regard.layers import Attention
from regard.mechanisms.dense import Deconstructed
from tests.bench.train.made import TASK, TINY

TEXT = "softmax/deconstructed:variant=rnd_fixed,length=64"


def test_names_take_turns_from_layer_0() -> None:
    (hybrid, plain) = entrants([f"{TEXT},softmax"])
    assert (hybrid.label, plain.label) == (TEXT, "softmax")
    model = hybrid.model(TASK, dataclasses.replace(TINY, layers=3), 0)
    first, second, third = (block.attention for block in model._blocks())
    assert isinstance(second, Deconstructed)
    assert (second.variant, second.length) == ("rnd_fixed", 64)
    for layer in (first, third):
        assert isinstance(layer, Attention)
        assert [part.spec.id for part in layer.parts] == ["mha", "rope", "softmax", "concat"]
    assert first is not third


def test_a_hybrid_is_trained() -> None:
    hybrid = entrants([TEXT])[0]
    settings = dataclasses.replace(TINY, layers=2)
    assert rehearse(hybrid, TASK, settings) == rehearse(entrants(["softmax"])[0], TASK, settings)
    told = run(hybrid, TASK, settings, 0, device=torch.device("cpu"), position="rope")
    assert told["metric"] is not None


def test_what_is_typed_wrong_in_a_hybrid() -> None:
    with pytest.raises(RegardError, match="Unknown mechanism 'sofmax'"):
        entrants(["softmax/sofmax"])
    with pytest.raises(RegardError, match="can't be trained here: A stack of 1 layers can't take turns between 2"):
        rehearse(entrants([TEXT])[0], TASK, dataclasses.replace(TINY, layers=1))
