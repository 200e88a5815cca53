"""What is typed for mechanisms, and the models that are made of it."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from regard.bench.train.entrant import DEFAULT, entrants, rehearse, split
from regard.bench.train.settings import Settings
from regard.errors import RegardError
from regard.layers import Attention
from tests.bench.train.made import TASK, TINY


def test_commas_part_mechanisms_and_settings() -> None:
    assert split("a,b:x=1,y=2,c") == ["a", "b:x=1,y=2", "c"]
    assert split(" a , b ,") == ["a", "b"]
    assert split("a:x=1,b:y=2") == ["a:x=1", "b:y=2"]
    assert split("a,x=1") == ["a", "x=1"]  # settings need a mechanism with a colon
    assert [entrant.label for entrant in entrants(["softmax,softmax", "gqa:kv_heads=1"])] == [
        "softmax",
        "gqa:kv_heads=1",
    ]


def test_a_mechanism_sits_in_its_slot_with_the_position_that_is_asked_for() -> None:
    def slots(name: str, position: str | None = None) -> dict[str, str]:
        layer = entrants([name], position)[0].layer(16, 2)
        assert isinstance(layer, Attention)
        return {part.spec.slot: part.spec.id for part in layer.parts}

    plain = {"projection": "mha", "position": "rope", "mixer": "softmax", "merge": "concat"}
    assert slots("softmax") == plain
    assert slots("gqa:kv_heads=1") == {**plain, "projection": "gqa"}
    assert slots("sliding_window:window=3", "none") == {**plain, "mixer": "sliding_window", "position": "none"}
    assert slots("alibi", "none") == {**plain, "position": "alibi"}


def test_the_defaults_can_be_trained() -> None:
    assert rehearse(entrants(DEFAULT)[0], TASK, Settings()) == rehearse(entrants(DEFAULT)[1], TASK, Settings())


def test_seeds_differ_and_making_a_model_draws_nothing_from_outside() -> None:
    entrant = entrants(["softmax"])[0]
    before = torch.get_rng_state()
    one, again, other = (entrant.model(TASK, TINY, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    for (name, a), b, c in zip(one.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert "norm" in name or "before" in name or not torch.equal(a, c), name


@pytest.mark.parametrize(
    ("texts", "position", "said"),
    [
        (["sofmax"], None, "Unknown mechanism 'sofmax'. Did you mean 'softmax'?"),
        (["softmax"], "sliding_window", "--position sliding_window is a mixer; type one of "),
        (["softmax"], "rop", "Unknown mechanism 'rop'. Did you mean 'rope'?"),
        (["softmax,x=1"], None, "Unknown mechanism 'x=1'."),
        ([","], None, "No mechanism was named; type --mechanisms softmax, or leave the option out."),
    ],
)
def test_what_is_typed_wrong(texts: list[str], position: str | None, said: str) -> None:
    with pytest.raises(RegardError) as error:
        entrants(texts, position)
    assert said in str(error.value)


def test_a_mechanism_that_can_t_be_trained_is_refused_by_name() -> None:
    with pytest.raises(RegardError, match=r"sliding_window:window=0 can't be trained here: SlidingWindow\.window must"):
        rehearse(entrants(["sliding_window:window=0"])[0], TASK, TINY)
    with pytest.raises(RegardError, match="softmax:windw=3 can't be trained here: softmax has no setting 'windw'"):
        rehearse(entrants(["softmax:windw=3"])[0], TASK, TINY)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "--steps must be at least 1; got 0."),
        ({"seeds": 0}, "--seeds must be at least 1; got 0."),
        ({"batch": -1}, "--batch must be at least 1; got -1."),
        ({"steps": 2**20}, "--steps must be below 1048576; got 1048576."),
        ({"rate": 0.0}, "--rate must be above 0; got 0.0."),
        ({"rate": float("nan")}, "--rate must be above 0; got nan."),
        ({"dim": 18, "heads": 4}, "--dim 18 is not a multiple of --heads 4; type --heads 1 or another."),
        ({"tests": 1}, "--tests must be at least 2; got 1."),
    ],
)
def test_settings_out_of_range(changes: dict[str, float], said: str) -> None:
    with pytest.raises(RegardError) as error:
        dataclasses.replace(TINY, **changes)  # type: ignore[arg-type]
    assert str(error.value) == said
