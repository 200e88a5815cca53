"""What an associative memory holds, against what is known of random vectors."""

from __future__ import annotations

import math

import pytest
import torch

from regard.bench.capacity import capacity, error_budget


def test_crosstalk_is_what_random_keys_give() -> None:
    """The mean square error of n pairs in a width of d is (n - 1) / d."""
    source = torch.Generator().manual_seed(0)
    for n in (8, 32):
        held = capacity(64, [n], trials=400, generator=source)[0]
        assert abs(held.error - math.sqrt((n - 1) / 64)) < 0.05 * math.sqrt((n - 1) / 64) + 0.01


def test_one_pair_is_exact_by_every_rule() -> None:
    for rule in ("hebb", "delta", "oja", "bcm"):
        held = capacity(16, [1], rule=rule, generator=torch.Generator().manual_seed(1))[0]
        assert held.error < 1e-5
        assert held.right == 1.0


def test_the_delta_rule_learns_what_hebb_confuses() -> None:
    source = torch.Generator().manual_seed(2)
    delta = capacity(64, [32], rule="delta", repeats=40, trials=8, generator=source)[0]
    hebb = capacity(64, [32], rule="hebb", trials=8, generator=source)[0]
    assert delta.error < 0.1 * hebb.error


def test_softmax_tells_apart_what_a_matrix_can_not() -> None:
    source = torch.Generator().manual_seed(3)
    assert capacity(64, [256], rule="softmax", trials=4, generator=source)[0].right > 0.99
    assert capacity(64, [256], rule="hebb", trials=4, generator=source)[0].right < 0.9


def test_the_budget_of_errors() -> None:
    """Averaging heads divides the error by the root of their number, measured too."""
    assert error_budget(64, 17) == 0.5
    assert error_budget(64, 17, depth=4) == 1.0
    assert error_budget(64, 17, depth=4, heads=16) == 0.25
    source = torch.Generator().manual_seed(4)
    from torch.nn import functional as F

    values = F.normalize(torch.randn(200, 17, 64, generator=source), dim=-1)
    heads = []
    for _ in range(16):
        keys = F.normalize(torch.randn(200, 17, 64, generator=source), dim=-1)
        heads.append(keys @ (keys.transpose(1, 2) @ values))
    error = (torch.stack(heads).mean(0) - values).norm(dim=-1).mean()
    assert abs(float(error) - error_budget(64, 17, heads=16)) < 0.02


def test_wrong_input() -> None:
    with pytest.raises(ValueError, match="capacity: width must be at least 1; got 0"):
        capacity(0, [1])
    with pytest.raises(ValueError, match="capacity: pairs must be at least 1; got 0"):
        capacity(4, [0])
    with pytest.raises(ValueError, match="rule must be one of"):
        capacity(4, [2], rule="hebbian")
    with pytest.raises(ValueError, match="error_budget: heads must be at least 1; got 0"):
        error_budget(4, 2, heads=0)
