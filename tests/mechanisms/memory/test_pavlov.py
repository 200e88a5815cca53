"""What the suite can't derive for the associative memory: conditioning as it is known from animals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.mechanisms import Call
from regard.mechanisms.memory import AssociativeMemory
from regard.ops import recur

D = 8


def learned(rule: str, pairs: list[tuple[Tensor, Tensor]], ask: Tensor, **settings: float) -> Tensor:
    """What a memory answers after it saw the pairs one after another; asking is no learning."""
    k, v = (torch.stack(side)[None, None] for side in zip(*pairs, strict=True))
    q = ask.expand_as(k)
    x = torch.zeros(1, k.shape[2], 1, dtype=k.dtype)
    mixer = AssociativeMemory(rule=rule, **settings)  # type: ignore[arg-type]
    return mixer(q, k, v, Call(tokens=x, memory=x, causal=True))[0, 0, -1]


A, BELL, *_ = torch.eye(D, dtype=torch.float64)
FOOD = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64)
NOTHING = torch.zeros(4, dtype=torch.float64)


@pytest.mark.parametrize("rule", ["hebb", "delta", "oja", "bcm"])
def test_one_pair_is_recalled(rule: str) -> None:
    torch.testing.assert_close(learned(rule, [(A, FOOD)], A), FOOD)


@pytest.mark.parametrize("rule", ["hebb", "delta", "oja"])
def test_as_many_orthogonal_pairs_as_there_are_channels(rule: str) -> None:
    values = F.normalize(torch.randn(D, 4, generator=torch.Generator().manual_seed(0)).double(), dim=-1)
    pairs = list(zip(torch.eye(D, dtype=torch.float64), values, strict=True))
    for key, value in pairs:
        torch.testing.assert_close(learned(rule, pairs, key), value)


def test_extinction_needs_the_delta_rule() -> None:
    pairs = [(A, FOOD)] * 3 + [(A, NOTHING)] * 30
    assert learned("delta", pairs, A, rate=0.5).norm() < 1e-6
    assert learned("hebb", pairs, A, rate=0.5).norm() > 1


def test_blocking_needs_the_delta_rule() -> None:
    """Once the bell foretells the food, a light that comes with the bell is not learned."""
    light = A
    both = F.normalize(BELL + light, dim=-1)
    pairs = [(BELL, FOOD)] * 30 + [(both, FOOD * 2**-0.5)] * 10
    alone = learned("delta", [(both, FOOD * 2**-0.5)] * 10, light, rate=0.3)
    blocked = learned("delta", pairs, light, rate=0.3)
    assert blocked.norm() < 0.3 * alone.norm()
    assert learned("hebb", pairs, light, rate=0.3).norm() > 0.9 * learned("hebb", pairs[30:], light, rate=0.3).norm()


def test_repeating_reaches_least_squares() -> None:
    source = torch.Generator().manual_seed(1)
    keys = F.normalize(torch.randn(5, D, generator=source).double(), dim=-1)
    values = torch.randn(5, 4, generator=source).double()
    pairs = list(zip(keys, values, strict=True)) * 400
    want = values.T @ torch.linalg.pinv(keys.T)
    torch.testing.assert_close(learned("delta", pairs, A), want @ A, rtol=0, atol=1e-6)


def test_hebb_is_linear_attention() -> None:
    q, k, v = (torch.randn(1, 2, 9, D, dtype=torch.float64) for _ in range(3))
    x = torch.zeros(1, 9, 1, dtype=torch.float64)
    got = AssociativeMemory(rule="hebb")(q, k, v, Call(tokens=x, memory=x, causal=True))
    want = torch.tril(F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-1, -2)) @ v
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(got, recur(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v))


def test_wrong_input_says_what_to_type() -> None:
    with pytest.raises(ValueError, match="rule must be one of 'hebb', 'decay', 'delta', 'oja', 'bcm'; got 'hebbian'"):
        AssociativeMemory(rule="hebbian")
    with pytest.raises(ValueError, match="rate must be above 0 and below 2; got 2.0. Type rate=1.0"):
        AssociativeMemory(rate=2.0)
    with pytest.raises(ValueError, match="stays must be above 0 and at most 1; got 0"):
        AssociativeMemory(stays=0)
