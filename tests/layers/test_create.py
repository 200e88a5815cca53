"""Mechanisms by name."""

from __future__ import annotations

import pytest

import regard
from regard.errors import RegardError
from regard.layers.create import parse
from regard.mechanisms import Slot
from regard.mechanisms.walk import family_of, walk

WRONG = [
    (lambda: regard.create("sofmax", dim=8, heads=2), "Unknown mechanism 'sofmax'. Did you mean 'softmax'?"),
    (lambda: regard.create("softmax", dim=8, heads=2, scal=1), "softmax has no setting 'scal'. Did you mean 'scale'?"),
    (lambda: regard.create("softmax", dim=8, heads=2, mixer="softmax"), "'softmax' is the mixer already"),
    (lambda: regard.create("none", dim=8, heads=2, deep=1), "none has no setting 'deep'. It has none."),
    (lambda: parse("gqa:"), "'gqa:' ends after the colon; type gqa:key=value"),
    (lambda: parse("gqa:kv_heads"), "'kv_heads' in 'gqa:kv_heads' is not key=value"),
]


@pytest.mark.parametrize(("call", "text"), WRONG, ids=[text for _, text in WRONG])
def test_a_wrong_name_or_setting_says_the_nearest(call, text: str) -> None:
    with pytest.raises(RegardError) as caught:
        call()
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("typed", "settings"),
    [
        ("gqa", {}),
        ("gqa:kv_heads=2", {"kv_heads": 2}),
        ("softmax:scale=0.5", {"scale": 0.5}),
        ("softmax:scale=none", {"scale": None}),
        ("mha:bias=true", {"bias": True}),
        ("mha:bias=1+2+4", {"bias": (1, 2, 4)}),
        ("mha:bias=word", {"bias": "word"}),
    ],
)
def test_a_mechanism_as_it_is_typed(typed: str, settings: dict[str, object]) -> None:
    named = parse(typed)
    assert named.kind is walk()[typed.partition(":")[0]]
    assert named.settings == settings


def test_the_package_is_walked_and_asked() -> None:
    every = regard.mechanisms()
    assert list(every) == sorted(every)
    assert all(isinstance(kind, type) and issubclass(kind, Slot) for kind in every.values())
    assert all(kind.spec.id == name for name, kind in every.items())
    linear = regard.mechanisms(slot="mixer", max_time_exponent=1)
    assert {kind.spec.slot for kind in linear.values()} <= {"mixer"}
    assert "softmax" not in linear
    assert "softmax" in regard.mechanisms(slot="mixer", max_time_exponent=2, causal=True, gqa=True)
    heads = regard.mechanisms(family="heads")
    assert {"mha", "gqa", "mqa", "concat"} <= set(heads)
    assert {family_of(kind) for kind in heads.values()} == {"heads"}
    with pytest.raises(ValueError, match="There is no family 'head'; families are dense, depth, heads"):
        regard.mechanisms(family="head")


def test_a_part_shows_its_settings() -> None:
    layer = regard.create("gqa", dim=16, heads=4, kv_heads=2, position="rope:base=500000.0")
    shown = repr(layer)
    assert "kv_heads=2" in shown
    assert "base=500000.0" in shown
    assert all(repr(regard.create(name, dim=32, heads=4)) for name, kind in walk().items())


def test_names_and_classes_agree_with_files() -> None:
    for name, kind in walk().items():
        assert kind.__module__.split(".")[-1] == name, kind
        family = __import__(kind.__module__.rpartition(".")[0], fromlist=["_"])
        assert getattr(family, kind.__name__, None) is kind, f"{family.__name__} has no alias line for {kind.__name__}."
