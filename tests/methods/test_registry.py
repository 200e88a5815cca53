"""Methods by name: what is typed is what is made, and what is typed wrong is told."""

from __future__ import annotations

import dataclasses
import inspect
import pkgutil

import pytest

import regard.methods
from regard.core import Spec
from regard.errors import RegardError
from regard.hf import Intervention
from regard.methods.registry import create, methods, parse
from tests.methods.formulas import CASES

TYPED = [case.text for cases in CASES.values() for case in cases]


def test_every_module_of_a_method_is_found() -> None:
    files = {
        module.name.rpartition(".")[2]
        for module in pkgutil.walk_packages(regard.methods.__path__, "regard.methods.")
        if not module.ispkg
    }
    assert files - {"method", "registry", "pooling"} == set(methods())
    assert list(methods()) == sorted(methods())
    known = {"dense", "sliding_window", "streaming_llm", "power_attention", "moba", "spargeattn"}
    assert known | {"oracle_top_k", "random_blocks"} <= set(methods())


@pytest.mark.parametrize("name", methods())
def test_spec(name: str) -> None:
    kind = methods()[name]
    assert issubclass(kind, Intervention)
    assert isinstance(kind.spec, Spec)
    assert (kind.spec.id, kind.spec.slot) == (name, "method")
    assert kind.spec.what
    assert kind.spec.source.title
    assert "\n" not in str(kind.spec.source)
    assert kind().name == name
    assert inspect.getdoc(kind)
    fields = {field.name for field in dataclasses.fields(kind)}
    for limit in kind.spec.limits:
        assert {setting for setting, _ in limit.settings} <= fields
    with pytest.raises(dataclasses.FrozenInstanceError):
        kind().window = 3  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "text", [*methods(), *TYPED, "spargeattn:tau=0.1234567891,theta=-0.5", "random_blocks:keep=1e-9"]
)
def test_a_label_is_read_back_as_the_same_method(text: str) -> None:
    method = parse(text)
    again = parse(method.label)
    assert again == method
    assert again.label == method.label
    assert create(method.spec.id, **method.settings) == method


def test_what_is_typed() -> None:
    assert parse("streaming_llm:window=508,sinks=4") == create("streaming_llm", window=508, sinks=4)
    assert parse(" streaming_llm: window = 7 , sinks = 0 ") == create("streaming_llm", window=7, sinks=0)
    assert parse("streaming_llm").settings == {"window": 508, "sinks": 4, "in_cache_positions": True}
    assert parse("streaming_llm").label == "streaming_llm:window=508,sinks=4,in_cache_positions=true"
    assert parse("dense").label == "dense"
    assert parse("random_blocks:keep=1").settings["keep"] == 1.0
    for word, value in (("true", True), ("Yes", True), ("1", True), ("off", False), ("FALSE", False), ("0", False)):
        assert parse(f"streaming_llm:in_cache_positions={word}").settings["in_cache_positions"] is value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("streamin_llm", r"^Unknown method 'streamin_llm'. Did you mean 'streaming_llm'\? Methods are dense, moba, "),
        ("xyzzy", "^Unknown method 'xyzzy'. Methods are dense, "),
        ("", "^Unknown method ''. Methods are dense, "),
        (
            "streaming_llm:windw=3",
            r"^streaming_llm has no setting 'windw'. Did you mean 'window'\? Its settings are window, ",
        ),
        ("dense:window=3", "^dense has no setting 'window'. It has none.$"),
        ("sliding_window:window=3.5", r"^sliding_window.window must be a whole number; got '3.5'.$"),
        ("sliding_window:window=abc", r"^sliding_window.window must be a whole number; got 'abc'.$"),
        ("spargeattn:tau=high", r"^spargeattn.tau must be a number; got 'high'.$"),
        ("spargeattn:sink=maybe", r"^spargeattn.sink must be true or false; got 'maybe'.$"),
        ("sliding_window:window=0", r"SlidingWindow.window must be at least 1; got 0.$"),
        ("streaming_llm:sinks=-1", r"StreamingLLM.sinks must be at least 0; got -1.$"),
        ("power_attention:block=0", r"PowerAttention.block must be at least 1; got 0.$"),
        ("power_attention:window=0", r"PowerAttention.window must be at least 1; got 0.$"),
        ("power_attention:sinks=-2", r"PowerAttention.sinks must be at least 0; got -2.$"),
        ("moba:block=0", r"MoBA.block must be at least 1; got 0.$"),
        ("moba:top_k=0", r"MoBA.top_k must be at least 1; got 0.$"),
        ("oracle_top_k:k=9,block=0", r"OracleTopK.block must be at least 1; got 0.$"),
        ("oracle_top_k:k=9,block=2", r"OracleTopK.k must be a multiple of block; got k=9 and block=2.$"),
        ("oracle_top_k:k=0", r"OracleTopK.k must be at least 1; got 0.$"),
        ("random_blocks:keep=1.01", r"RandomBlocks.keep must be in \[0, 1\]; got 1.01.$"),
        ("random_blocks:keep=nan", r"RandomBlocks.keep must be in \[0, 1\]; got nan.$"),
        ("random_blocks:block=0", r"RandomBlocks.block must be at least 1; got 0.$"),
        ("spargeattn:tau=0", r"SpargeAttn.tau must be in \(0, 1\]; got 0.0.$"),
        ("spargeattn:tau=1.1", r"SpargeAttn.tau must be in \(0, 1\]; got 1.1.$"),
        ("spargeattn:theta=-1.5", r"SpargeAttn.theta must be in \[-1, 1\]; got -1.5.$"),
        ("spargeattn:q_block=0", r"SpargeAttn.q_block must be at least 1; got 0.$"),
        ("spargeattn:k_block=0", r"SpargeAttn.k_block must be at least 1; got 0.$"),
        ("moba:", "^'moba:' ends after the colon; type moba:key=value,... or moba.$"),
        ("moba:block", "^'block' in 'moba:block' is not key=value; type moba:key=value,key=value.$"),
        ("moba:block=", "^'block=' in 'moba:block=' is not key=value"),
        ("moba:=3", "^'=3' in 'moba:=3' is not key=value"),
        ("moba:block=3,", "^'' in 'moba:block=3,' is not key=value"),
        ("moba:block=3,block=4", "^'block' is given twice in 'moba:block=3,block=4'.$"),
    ],
)
def test_what_is_typed_wrong(text: str, said: str) -> None:
    with pytest.raises(RegardError, match=said):
        parse(text)


@pytest.mark.parametrize(
    ("name", "settings", "said"),
    [
        ("sliding_window", {"window": 2.5}, "sliding_window.window must be a whole number; got 2.5."),
        ("sliding_window", {"window": "512"}, "sliding_window.window must be a whole number; got '512'."),
        ("sliding_window", {"window": True}, "sliding_window.window must be a whole number; got True."),
        ("sliding_window", {"window": None}, "sliding_window.window must be a whole number; got None."),
        ("spargeattn", {"tau": "0.5"}, "spargeattn.tau must be a number; got '0.5'."),
        ("spargeattn", {"sink": 1}, "spargeattn.sink must be true or false; got 1."),
        ("dense", {"window": 3}, "dense has no setting 'window'. It has none."),
    ],
)
def test_settings_of_the_wrong_kind(name: str, settings: dict, said: str) -> None:
    with pytest.raises(RegardError) as caught:
        create(name, **settings)
    assert str(caught.value) == said


def test_a_whole_number_is_a_number() -> None:
    assert create("random_blocks", keep=1).label == "random_blocks:keep=1,block=64,seed=0"
    assert parse(create("random_blocks", keep=1).label) == create("random_blocks", keep=1)
