"""What the checks of mechanisms along the layers catch: each probe breaks one claim."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from regard.core import Cost, Source, Spec
from regard.mechanisms import Depth
from regard.testing import ConformanceError, check
from regard.testing.checks import CHECKS


def spec(**claims: Any) -> Spec:
    base: dict[str, Any] = {
        "id": "probe", "slot": "depth", "source": Source("A probe"), "what": "A probe.", "bidirectional": False,
        "gqa": False, "cost": Cost(time=1, state=0),
    }  # fmt: skip
    return Spec(**{**base, **claims})


class Sum(Depth):
    """The running sum of what a square map makes of the sources, which keeps every claim."""

    spec: ClassVar[Spec] = spec()

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.map = torch.nn.Linear(dim, dim)

    def advance(self, inner: Tensor | None, source: Tensor, at: int) -> tuple[Tensor, Tensor]:
        total = self.map(source) if inner is None else inner + self.map(source)
        return total, total


class MixesTokens(Sum):
    def advance(self, inner: Tensor | None, source: Tensor, at: int) -> tuple[Tensor, Tensor]:
        return super().advance(inner, source + 1e-3 * source.mean(1, keepdim=True), at)


class ReadsAhead(Sum):
    def read(self, sources: Tensor) -> Tensor:
        return self.map(sources).cumsum(2) + 1e-3 * sources.mean(2, keepdim=True)


class StepsApart(Sum):
    def read(self, sources: Tensor) -> Tensor:
        return self.map(sources).cumsum(2) * 1.001


class Keeps(Sum):
    def advance(self, inner: Any, source: Tensor, at: int) -> tuple[Tensor, Any]:
        kept = (*(inner or ()), source)
        return self.map(sum(kept[1:], kept[0])), kept


class Squares(Sum):
    def read(self, sources: Tensor) -> Tensor:
        S = sources.shape[2]
        return torch.ones(S, S, dtype=sources.dtype).tril() @ self.map(sources)


class Unchecked(Sum):
    layers = 5

    def _reach(self, count: int) -> None:
        return


def told(kind: type[Depth], *only: str) -> str:
    with pytest.raises(ConformanceError) as caught:
        check(kind, only=only)
    return str(caught.value)


def test_a_depth_that_keeps_its_claims_passes_what_depths_are_held_to() -> None:
    asked = {one.check for one in check(Sum, only=set(CHECKS) - {"compiles"})}
    assert {name for name in CHECKS if name.startswith("depth: ")} <= asked
    assert {"causal: no future", "decode: step by step", "gradcheck", "bfloat16 error"} <= asked
    assert not {"padding", "packed documents", "cross", "grouped heads", "cost: time", "cost: state"} & asked


def test_probes_are_caught() -> None:
    assert "many tokens, and each alone: differs" in told(MixesTokens, "depth: tokens apart")
    assert "later tokens changed: differs" in told(ReadsAhead, "causal: no future")
    assert "source by source: differs" in told(StepsApart, "depth: tokens apart")
    assert "state grows as S^1.00" in told(Keeps, "depth: state")
    assert "time grows as S^" in told(Squares, "depth: time")
    assert "too many sources: nothing was raised" in told(Unchecked, "depth: refuses wrong sources")
