"""Weights over the layers that are the same for every token."""

from __future__ import annotations

import pytest
import torch

from regard.mechanisms.depth import StaticDepthWeights

B, N, S, C = 2, 3, 5, 8


@pytest.mark.parametrize("kind", ["dense", "elc"])
def test_each_read_is_its_row_of_weights(kind: str) -> None:
    depth = StaticDepthWeights(C, layers=7, kind=kind).double()
    torch.manual_seed(0)
    torch.nn.init.normal_(depth.weight)
    x = torch.randn(B, N, S, C, dtype=torch.float64)
    for s in range(S):
        row = depth.weight[s, : s + 1].detach()
        row = row.exp() / row.exp().sum() if kind == "elc" else row
        want = sum(weight * x[:, :, j] for j, weight in enumerate(row))
        torch.testing.assert_close(depth(x)[:, :, s], want)


def test_weights_that_favour_the_latest_give_the_plain_residual() -> None:
    depth = StaticDepthWeights(C, layers=S, kind="elc").double()
    depth.weight.data = 100 * torch.eye(S, dtype=torch.float64)
    x = torch.randn(B, N, S, C, dtype=torch.float64)
    torch.testing.assert_close(depth(x), x)
    assert depth.weights(4).sum(-1).tolist() == pytest.approx([1.0] * 4)
    assert depth.weights(4).triu(1).abs().max() == 0


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"StaticDepthWeights\.layers must be at least 1; got 0"):
        StaticDepthWeights(C, layers=0)
    with pytest.raises(ValueError, match="kind must be one of 'dense', 'elc'; got 'mean'"):
        StaticDepthWeights(C, kind="mean")
