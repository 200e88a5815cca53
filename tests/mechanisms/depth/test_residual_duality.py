"""The window along the layers and the window along the sequence are one operator."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.errors import ShapeError
from regard.mechanisms.depth import DepthSlidingWindow, ShortSlidingWindow

B, N, S, C, H = 2, 6, 9, 16, 2


def pair(window: int) -> tuple[DepthSlidingWindow, ShortSlidingWindow]:
    torch.manual_seed(window)
    depth = DepthSlidingWindow(C, H, window=window, residual=False).double()
    short = ShortSlidingWindow(C, H, window=window).double()
    short.load_state_dict(depth.state_dict())
    return depth, short


@pytest.mark.parametrize("window", [1, 3, 20])
def test_over_depth_is_over_the_sequence_transposed(window: int) -> None:
    depth, short = pair(window)
    x = torch.randn(B, N, S, C, dtype=torch.float64)
    over_depth = depth(x)
    torch.testing.assert_close(over_depth, short(x.flatten(0, 1), causal=True).unflatten(0, (B, N)))
    # The same tensor read the other way: the tokens as layers, the layers as tokens.
    over_tokens = short(x.transpose(1, 2).flatten(0, 1), causal=True).unflatten(0, (B, S)).transpose(1, 2)
    torch.testing.assert_close(depth(x.transpose(1, 2)).transpose(1, 2), over_tokens)
    assert window == 1 or (over_depth - over_tokens).abs().max() > 1e-3


def test_a_ring_keeps_the_window_alone_and_skips_padding() -> None:
    _, short = pair(3)
    x = torch.randn(2, 12, C, dtype=torch.float64)
    real = torch.ones(2, 12, dtype=torch.bool)
    real[0, 4:] = False
    _, state = short.prefill(x, padding=real)
    assert state.inner.k.shape == (2, H, 3, C // H)
    assert state.inner.positions.tolist() == [[1, 2, 3], [9, 10, 11]]
    _, state = short.step(state, x[:, :2])
    assert state.inner.positions.tolist() == [[3, 4, 5], [11, 12, 13]]


def test_what_is_kept_over_depth_is_the_window() -> None:
    depth, _ = pair(3)
    state = depth.init_state()
    for _ in range(7):
        _, state = depth.step(state, torch.randn(B, N, C, dtype=torch.float64))
    assert [x.shape for x in state.inner] == [(B, N, 3, C)] * 2


def test_sizes_and_settings_out_of_range_are_refused() -> None:
    for name in ("residual_duality", "short_swa"):
        made = regard.create(name, dim=C, heads=H)
        assert sum(p.numel() for p in made.parameters()) == 4 * C * C
        with pytest.raises(ValueError, match=r"Window.window must be at least 1; got 0"):
            regard.create(name, dim=C, heads=H, window=0)
        with pytest.raises(ShapeError, match="dim=16 is not a multiple of heads=3"):
            regard.create(name, dim=C, heads=3)
    assert isinstance(regard.create("residual_duality", dim=C, heads=H), regard.mechanisms.Depth)
