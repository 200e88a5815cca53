"""The suite itself: each check fails for a mechanism that breaks its claim, and says so with the numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import regard.testing
from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.errors import Unsupported
from regard.layers import Attention
from regard.mechanisms import Call, Mixer
from regard.testing import ConformanceError
from regard.testing.checks import CHECKS


def spec(**claims: Any) -> Spec:
    base: dict[str, Any] = {
        "id": "probe", "slot": "mixer", "source": Source("A probe"), "what": "A probe.", "cross": True, "scores": True,
        "cost": Cost(time=2, state=1),
    }  # fmt: skip
    return Spec(**{**base, **claims})


class Plain(Mixer):
    """Softmax attention, which keeps every claim; the probes below break one each."""

    spec: ClassVar[Spec] = spec(limits=(Limit("softmax"),))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.attend(q, k, v)


# What is along the layers has checks of its own, which tests/mechanisms/depth breaks.
OF_TOKENS = {name for name in CHECKS if not name.startswith("depth: ")}


def test_a_mechanism_from_elsewhere_is_held_to_the_same() -> None:
    told: list[regard.testing.Outcome] = []
    outcomes = regard.testing.check(Plain, progress=told.append)
    assert outcomes == told
    assert {outcome.check for outcome in outcomes} == OF_TOKENS


def test_a_layer_is_held_to_what_all_of_its_slots_claim() -> None:
    outcomes = regard.testing.check(Attention(24, 3, projection="mqa", mixer=Plain(), merge="concat:bias=true"))
    assert {outcome.subject for outcome in outcomes} == {"Attention"}
    assert OF_TOKENS - {outcome.check for outcome in outcomes} == {"limits", "grouped heads", "edits of scores"}


class Leaks(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.with_(causal=False).attend(q, k, v)


class LeaksByMean(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.attend(q, k, v) + 1e-6 * q.mean(2, keepdim=True)


class Forgets(Plain):
    """Its output is its own value: it never looks back."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return v.repeat_interleave(q.shape[1] // v.shape[1], 1)[:, :, -q.shape[2] :]


class LooksBack(Plain):
    """It ignores causal=False."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.with_(causal=not call.cross).attend(q, k, v)


class OverTheBatch(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.attend(q, k, v) * (q.mean((1, 2, 3), keepdim=True).softmax(0) + 1)


class Writes(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        with torch.no_grad():
            call.tokens.add_(1e-3)
        return call.attend(q, k, v)


class Hides(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.attend(*(x.nan_to_num() for x in (q, k, v)))


class Overflows(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        grouped = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(grouped, 1), v.repeat_interleave(grouped, 1)
        scores = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).masked_fill(
            ~call.visible(q.shape[2], k.shape[2]), -torch.inf
        )
        powers = scores.exp()
        return powers / powers.sum(-1, keepdim=True) @ v


class Unwritten(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.attend(q, k, v) + 0 * torch.empty(q.shape[-1], dtype=q.dtype)


class Widens(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.attend(q, k, v) * torch.ones(1, dtype=torch.float32)


class Unscaled(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.attend(q, k, v, scale=1.0)


class Unregistered(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.randn(()).double()

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.attend(q, k, v) * self.hidden.to(q.dtype)


class Unused(Plain):
    def __init__(self) -> None:
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(3))


class WrongSlope(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.attend(q + (q - q.detach()), k, v)


class SeesPadding(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        N, M = q.shape[2], k.shape[2]
        return call.with_(q_positions=torch.arange(M - N, M)[None], k_positions=None).attend(q, k, v)


class MixesDocuments(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.with_(documents=None).attend(q, k, v)


class WrongGroup(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        grouped = q.shape[1] // k.shape[1]
        return call.attend(q, k.repeat(1, grouped, 1, 1), v.repeat(1, grouped, 1, 1))


class IgnoresEdits(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.with_(edits=()).attend(q, k, v)


class LosesState(Plain):
    def step(self, state: Held, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Any]:
        out, after = super().step(state, q, k, v, call)
        return out, state if after.parts[0].shape[2] > 4 else after


class SharesState(Plain):
    """Its state is a list that a step extends in place."""

    def init_state(self, batch: int, held: Held) -> Any:
        return [held]

    def step(self, state: Any, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Any]:
        out, state[0] = super().step(state[0], q, k, v, call)
        return out, state


class NeverReorders(Plain):
    def reorder(self, state: Any, index: Tensor) -> Any:
        return state

    def init_state(self, batch: int, held: Held) -> Any:
        return (held, torch.zeros(batch, 1))

    def step(self, state: Any, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Any]:
        out, held = super().step(state[0], q, k, v, call)
        return out, (held, state[1] + 1)


class ClaimsLinear(Plain):
    spec: ClassVar[Spec] = spec(cost=Cost(time=1, state=1))


class ClaimsConstantState(Plain):
    spec: ClassVar[Spec] = spec(cost=Cost(time=2, state=0))


class Coarse(Plain):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        rounded = q.to(torch.float8_e4m3fn).to(q.dtype) if q.dtype == torch.bfloat16 else q
        return call.attend(rounded, k, v)


class Unguarded(Plain):
    spec: ClassVar[Spec] = spec(padding=False)

    def allow(self, call: Call) -> None:
        return


class Graph(Plain):
    """It counts its calls, and a compiled one runs what it saw the first time."""

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        extra = 1.0 if torch.compiler.is_compiling() else 0.0
        return call.attend(q, k, v) + extra


CASES: list[tuple[type[Mixer], str]] = [
    (Leaks, "causal: no future"),
    (LeaksByMean, "causal: no future"),
    (LeaksByMean, "causal: a beginning"),
    (Forgets, "causal: some past"),
    (LooksBack, "bidirectional: both sides"),
    (OverTheBatch, "batch independence"),
    (Writes, "inputs untouched"),
    (Hides, "NaN stays NaN"),
    (Overflows, "large logits"),
    (Unwritten, "repeatable"),
    (Widens, "dtype"),
    (Unscaled, "limits"),
    (Unregistered, "all in the state dict"),
    (Unused, "gradients reach"),
    (WrongSlope, "gradcheck"),
    (SeesPadding, "padding"),
    (MixesDocuments, "packed documents"),
    (SeesPadding, "cross"),
    (SeesPadding, "decode: padded prompt"),
    (WrongGroup, "grouped heads"),
    (IgnoresEdits, "edits of scores"),
    (LosesState, "decode: step by step"),
    (LosesState, "decode: after a prefill"),
    (SharesState, "decode: a state is a value"),
    (ClaimsLinear, "cost: time"),
    (ClaimsConstantState, "cost: state"),
    (Coarse, "bfloat16 error"),
    (Graph, "compiles"),
]


@pytest.mark.parametrize(("kind", "check"), CASES, ids=[f"{kind.__name__}-{check}" for kind, check in CASES])
def test_a_broken_claim_is_caught(kind: type[Mixer], check: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        regard.testing.check(kind, only=[check])
    assert str(caught.value).startswith("1 of 1 checks did not hold:\nprobe · " + check)


def test_every_check_has_a_mechanism_that_breaks_it() -> None:
    assert OF_TOKENS - {check for _, check in CASES} == {
        "shape", "refuses wrong shapes", "refuses the unclaimed",
    }  # fmt: skip  # seen below


class Turned(Attention):
    def attend(self, call: Call) -> Tensor:
        return super().attend(call).transpose(1, 2)


class Loose(Attention):
    def _tokens(self, tokens: Tensor, what: str) -> None:
        return


class Open(Attention):
    def allow(self, call: Call) -> None:
        return


@pytest.mark.parametrize(
    ("kind", "check"), [(Turned, "shape"), (Loose, "refuses wrong shapes"), (Open, "refuses the unclaimed")]
)
def test_a_layer_that_breaks_a_claim_is_caught(kind: Callable[..., Attention], check: str) -> None:
    with pytest.raises(ConformanceError, match=check):
        regard.testing.check(kind(32, 4, mixer=Unguarded()), only=[check])


def test_a_check_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="There is no check causel; checks are shape, dtype"):
        regard.testing.check(Plain, only=["causel"])


def test_an_unclaimed_flag_is_refused_and_passes() -> None:
    class Careful(Plain):
        spec: ClassVar[Spec] = spec(cross=False, decode=False, gqa=False, padding=False, bidirectional=False)

    outcomes = regard.testing.check(Careful, only=["refuses the unclaimed", "shape"])
    assert len(outcomes) == 2
    with pytest.raises(Unsupported, match="Careful attends to its own tokens only"):
        Attention(8, 2, mixer=Careful()).allow(
            Call(tokens=torch.zeros(1, 3, 8), memory=torch.zeros(1, 3, 8), causal=True, cross=True)
        )
