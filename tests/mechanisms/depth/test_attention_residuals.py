"""Attention residuals: weights, blocks, and what scaling a source does."""

from __future__ import annotations

import pytest
import torch

from regard.mechanisms.depth import AttentionResiduals
from regard.testing.oracles import find

B, N, S, C = 2, 3, 11, 8


def made(block_size: int | None = None, **settings) -> AttentionResiduals:
    torch.manual_seed(0)
    depth = AttentionResiduals(C, layers=S, block_size=block_size, **settings).double()
    if depth.norm == "softmax":
        torch.nn.init.normal_(depth.query)
        torch.nn.init.normal_(depth.gain, mean=1.0, std=0.3)
    return depth


def sources() -> torch.Tensor:
    return torch.randn(B, N, S, C, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("block_size", [None, 1, 2, 3, 10, 50])
def test_blocks_of_every_size_equal_the_oracle(block_size: int | None) -> None:
    depth, x = made(block_size), sources()
    want = find("attention_residuals")(depth, x.flatten(0, 1), None, True).unflatten(0, (B, N))
    torch.testing.assert_close(depth(x), want)
    weights = depth.weights(x)
    assert weights.min() >= 0
    torch.testing.assert_close(weights.sum(-1), torch.ones(B, N, S, dtype=torch.float64))
    assert weights.shape[-1] == 2 + (S - 1) // (block_size or 1)


def test_blocks_of_one_are_no_blocks() -> None:
    torch.testing.assert_close(made(1)(sources()), made()(sources()))


@pytest.mark.parametrize("block_size", [1, 4])
def test_two_phases_are_safe_at_large_logits(block_size: int) -> None:
    depth, x = made(block_size), sources()
    depth.query.data *= 1e3
    state, reads = depth.init_state(), []
    for source in x.unbind(2):
        read, state = depth.step(state, source)
        reads.append(read)
    assert torch.isfinite(reads[-1]).all()
    torch.testing.assert_close(torch.stack(reads, 2), depth(x))


def test_a_longer_source_keeps_its_weight_and_brings_more() -> None:
    depth, x = made(eps=0.0), sources()
    longer = x.clone()
    longer[:, :, 4] *= 3
    torch.testing.assert_close(depth.weights(longer), depth.weights(x))
    weight = depth.weights(x)[..., 4, None]
    torch.testing.assert_close(depth(longer) - depth(x), weight * 2 * x[:, :, 4, None])


def test_what_is_read_stays_bounded_where_the_sum_grows() -> None:
    x = torch.randn(1, 64, 200, C, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    mean, plain = AttentionResiduals(C, layers=200).double(), AttentionResiduals(C, norm="sum", layers=200).double()
    assert mean(x).norm(dim=-1).mean((0, 1)).max() <= x.norm(dim=-1).max()
    grown = plain(x).norm(dim=-1).mean((0, 1))
    assert grown[-1] > 8 * grown[0]
    assert sum(p.numel() for p in mean.parameters()) == 200 * 2 * C
    assert not list(plain.parameters())


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"AttentionResiduals\.block_size must be at least 1; got 0"):
        AttentionResiduals(C, block_size=0)
    with pytest.raises(ValueError, match="norm must be one of 'softmax', 'sum'; got 'mean'"):
        AttentionResiduals(C, norm="mean")
    with pytest.raises(ValueError, match="has no weights: all are 1"):
        AttentionResiduals(C, norm="sum").weights(sources())
    with pytest.raises(ValueError, match="got no source"):
        AttentionResiduals(C)([])
    with pytest.raises(ValueError, match=r"sources of one shape; got \[1, 2, 8\], \[1, 3, 8\]"):
        AttentionResiduals(C)([torch.zeros(1, 2, C), torch.zeros(1, 3, C)])
    with pytest.raises(ValueError, match="parameters for 3 sources and got 4. Type layers=4"):
        AttentionResiduals(C, layers=3)(torch.zeros(1, 2, 4, C))
