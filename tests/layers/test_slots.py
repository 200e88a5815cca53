"""What a spec does not claim never reaches a mechanism: the guard that every slot has."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from regard.caches import Held
from regard.core import Cost, Source, Spec
from regard.errors import ShapeError, Unsupported
from regard.masks import sinks
from regard.mechanisms import Call, Mixer
from regard.mechanisms.dense import Softmax

Q = torch.zeros(2, 4, 3, 8)
X = torch.zeros(2, 3, 32)
PLACES = torch.tensor([[0, 1, 2], [-1, 0, 1]])


def mixer(**claims: Any) -> Mixer:
    class Probe(Mixer):
        spec = Spec(
            **{
                "id": "probe", "slot": "mixer", "source": Source("A probe"), "what": "A probe.", "cross": True,
                "cost": Cost(time=2, state=1), **claims,
            }
        )  # fmt: skip

        def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
            return q

    return Probe()


def call(**fields: Any) -> Call:
    return Call(tokens=X, memory=X, **fields)


CASES = [
    ({"causal": False}, {"causal": True}, "Probe is not causal: its output would see later tokens. Type causal=False."),
    ({"bidirectional": False}, {"causal": False}, "Probe is defined for causal attention only. Type causal=True."),
    ({"cross": False}, {"cross": True}, "Probe attends to its own tokens only. Leave memory out."),
    ({"padding": False}, {"k_positions": PLACES}, "Probe can't leave padding out."),
    ({"padding": False}, {"q_positions": PLACES}, "Probe can't leave padding out."),
    ({"packing": False}, {"documents": PLACES}, "Probe can't keep packed documents apart."),
]


@pytest.mark.parametrize(("claims", "asked", "text"), CASES, ids=[f"{c}-{a}" for c, a, _ in CASES])
def test_the_unclaimed_is_refused_and_the_claimed_is_not(claims: dict, asked: dict, text: str) -> None:
    assert mixer()(Q, Q, Q, call(**asked)) is Q
    with pytest.raises(Unsupported) as caught:
        mixer(**claims)(Q, Q, Q, call(**asked))
    assert str(caught.value).startswith(text)


def test_a_mixer_s_own_steps_carry_what_they_have_seen() -> None:
    q, k, v = torch.randn(3, 2, 4, 6, 8, dtype=torch.float64)
    whole = Softmax()(q, k, v, call(causal=True))
    state, outs = Softmax().init_state(2, Held()), []
    for n in range(6):
        at = torch.tensor([[n]])
        one = (t[:, :, n : n + 1] for t in (q, k, v))
        out, state = Softmax().step(state, *one, call(causal=True, q_positions=at, k_positions=at))
        outs.append(out)
    assert torch.allclose(torch.cat(outs, 2), whole, atol=1e-12, rtol=0)


def test_a_mixer_s_own_mask_narrows_the_call_s() -> None:
    q, k, v = torch.randn(3, 2, 4, 6, 8, dtype=torch.float64)
    seen = torch.ones(6, 6, dtype=torch.bool).tril() & (torch.arange(6) < 3)
    scores = (q @ k.transpose(-1, -2) / 8**0.5).masked_fill(~seen, -torch.inf)
    got = call(causal=True).attend(q, k, v, where=sinks(3))
    assert torch.allclose(got, scores.softmax(-1) @ v, atol=1e-12, rtol=0)


def test_grouped_heads() -> None:
    assert mixer()(Q, Q[:, :2], Q[:, :2], call()) is Q
    with pytest.raises(Unsupported, match="Probe needs as many key heads as query heads; got 4 and 2. Type kv_heads=4"):
        mixer(gqa=False)(Q, Q[:, :2], Q[:, :2], call())


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        (Q[0], Q, Q),
        (Q, Q[:1], Q[:1]),
        (Q, Q[..., :4], Q),
        (Q, Q, Q[:, :, :2]),
        (Q, Q[:, :3], Q[:, :3]),
    ],
)
def test_shapes_that_do_not_fit(q: Tensor, k: Tensor, v: Tensor) -> None:
    with pytest.raises(ShapeError, match="Probe"):
        mixer()(q, k, v, call())


def test_a_document_starts_at_its_first_real_token() -> None:
    """Padding before, inside and behind a document does not move where it starts."""
    documents = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 1]])
    places = torch.tensor([[-1, 1, 2, -1, 4, -1, 6, -1]])
    x = torch.zeros(1, 8, 4)
    found = Call(tokens=x, memory=x, documents=documents, q_positions=places, k_positions=places).starts
    assert found[0, [1, 2, 4, 6]].tolist() == [1, 1, 1, 6]
    whole = Call(tokens=x, memory=x, documents=documents).starts
    assert whole[0].tolist() == [0, 0, 0, 0, 0, 5, 5, 5]
