"""Studies of positions: their rules on made figures, and the measures that are their own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from regard.bench.studies import Row, studies
from regard.bench.studies import p_rope as of_p_rope
from regard.bench.studies.fope import grown, what
from regard.bench.studies.losses import WHAT
from regard.bench.studies.walk import measured


def row(name: str, what: str, value: float, half: float = 0.01) -> Row:
    return Row(name, what, value, value - half, value + half, "")


def test_cope_must_win_at_four_times_the_length() -> None:
    from regard.bench.studies.cope import what

    verdict = studies()["cope"].verdict
    assert verdict([row("cope", what(256), 90), row("rope", what(256), 60)]) is True
    assert verdict([row("cope", what(256), 60), row("rope", what(256), 90)]) is False
    assert verdict([row("cope", what(64), 90), row("rope", what(64), 60)]) is None


def test_fope_must_be_lower_far_out_and_grow_less() -> None:
    own = "fope:length=64"

    def told(far: float, more: float) -> bool | None:
        rows = [row("rope", what(512), 3.0), row("rope", grown(512), 1.0)]
        return studies()["fope"].verdict([*rows, row(own, what(512), far), row(own, grown(512), more)])

    assert told(2.5, 0.5) is True
    assert told(3.5, 0.5) is False
    assert told(2.5, 1.5) is False
    assert told(2.5, 1.0) is None


def test_tapa_must_be_as_good_within_and_grow_less_beyond() -> None:
    def told(near: float, more: float) -> bool | None:
        rows = [row("rope", what(64), 2.0), row("rope", grown(512), 1.0)]
        return studies()["tapa"].verdict([*rows, row("tapa", what(64), near), row("tapa", grown(512), more)])

    assert told(2.02, 0.5) is True
    assert told(2.2, 0.5) is False
    assert told(2.02, 1.5) is False
    assert told(2.05, 0.5) is None
    assert studies()["tapa"].verdict([]) is None


def test_rcmha_must_be_better_than_rmha_and_that_than_mha() -> None:
    from regard.bench.studies.rcmha import MHA, RMHA

    def told(mha: float, rmha: float, own: float) -> bool | None:
        return studies()["rcmha"].verdict([row(MHA, WHAT, mha), row(RMHA, WHAT, rmha), row("rcmha", WHAT, own)])

    assert told(3.0, 2.0, 1.0) is True
    assert told(2.0, 3.0, 1.0) is False
    assert told(3.0, 1.0, 2.0) is False
    assert told(3.0, 2.0, 2.0) is None


def test_p_rope_must_be_worst_at_none_and_as_good_at_three_quarters() -> None:
    def told(*values: float) -> bool | None:
        rows = [row(name, WHAT, value, 0.001) for name, value in zip(of_p_rope.SHARES, values, strict=True)]
        return studies()["p_rope"].verdict(rows)

    assert told(3.0, 2.2, 2.1, 2.0, 2.0) is True
    assert told(2.0, 2.2, 2.1, 2.0, 2.0) is False
    assert told(3.0, 2.2, 2.1, 2.1, 2.0) is False


def test_every_part_of_frequency_usage_counts() -> None:
    good = {
        (of_p_rope.ALL, of_p_rope.SLOW_LENGTHS): 9.0,
        (of_p_rope.ALL, of_p_rope.FAST_LENGTHS): 3.0,
        (of_p_rope.BEFORE, of_p_rope.SHARE): 0.3,
        (of_p_rope.ALL, of_p_rope.SHARE): 0.1,
        (of_p_rope.MUTED, of_p_rope.PATTERN): 0.05,
        (of_p_rope.MUTED, of_p_rope.RISE): 0.3,
        (of_p_rope.OTHERS_MUTED, of_p_rope.RISE): 0.1,
    }
    verdict = studies()["frequency_usage"].verdict

    def told(**changed: float) -> bool | None:
        values = dict(good)
        for key in good:
            if key[1] in changed and key[0] != of_p_rope.OTHERS_MUTED:
                values[key] = changed[key[1]]
        return verdict([row(*key, value) for key, value in values.items()])

    assert told() is True
    for one, worse in (
        (of_p_rope.SLOW_LENGTHS, 1.0),
        (of_p_rope.PATTERN, 0.4),
        (of_p_rope.RISE, 0.0),
    ):
        assert told(**{one: worse}) is False
    assert told(**{of_p_rope.SHARE: 0.2}) is None
    assert verdict([]) is None


def test_usage_is_measured_on_a_model_that_looks_back() -> None:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=30, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, initializer_range=0.2,
    )  # fmt: skip
    model = LlamaForCausalLM(config).eval()
    attention = model.get_submodule("model.layers.1.self_attn")
    with torch.no_grad():  # head 1 of layer 1 points one token back in its fastest pair, whatever the tokens are
        for name, angle in (("q_proj", -1.0), ("k_proj", 0.0)):
            part = attention.get_submodule(name)
            assert isinstance(part, torch.nn.Linear)
            part.weight[16:] = 0.0
            part.bias = torch.nn.Parameter(torch.zeros(32))
            part.bias[16], part.bias[24] = 60 * torch.cos(torch.tensor(angle)), 60 * torch.sin(torch.tensor(angle))
    texts = [torch.randint(30, (1, 20), generator=torch.Generator().manual_seed(n)) for n in range(2)]
    rows = of_p_rope.figures(model, texts, 1, lambda doing, done: None)
    of = {(one.mechanism, one.what): one.value for one in rows}
    assert of[of_p_rope.BEFORE, of_p_rope.PATTERN] > 0.99
    assert of[of_p_rope.MUTED, of_p_rope.PATTERN] < 0.3
    assert of[of_p_rope.BEFORE, of_p_rope.SHARE] == pytest.approx(1.0)
    assert of[of_p_rope.ALL, of_p_rope.SHARE] < 0.9
    assert of[of_p_rope.MUTED, of_p_rope.RISE] != 0
    assert (of_p_rope.OTHERS_MUTED, of_p_rope.RISE) in of


@pytest.mark.parametrize("name", ["cope", "fope", "tapa", "rcmha", "p_rope"])
def test_a_study_measures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import regard.bench.studies.study as study

    plain = study.trained

    def small(text: str, *given: object, **settings: object) -> object:
        return plain(text, *given, **{**settings, "tests": 2, "batch": 2, "dim": 16, "layers": 1, "heads": 2})  # type: ignore[arg-type]

    for module in ("cope", "fope", "rcmha", "p_rope"):
        monkeypatch.setattr(f"regard.bench.studies.{module}.trained", small)
    result = measured(replace(studies()[name], steps=1, seeds=2))
    assert result["rows"]
    assert all(one["low"] is None or one["low"] <= one["value"] <= one["high"] for one in result["rows"])
    if name == "rcmha":
        memory = {one["mechanism"]: one["value"] for one in result["rows"] if one["unit"] == "x"}
        assert memory["rcmha:kernel=none,encoding=absolute"] == 1.0
        assert memory["rcmha"] > memory["rcmha:encoding=absolute"] > 1.0
