"""The decoder whose sub-layers read along the layers."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.backbones.residuals import ResidualLM
from regard.errors import ShapeError
from regard.mechanisms.depth import AttentionResiduals

V, C, H, N = 11, 16, 2, 9
DEPTHS = {
    "attention_residuals": {"layers": 7}, "attention_residuals:blocks": {"layers": 7, "block_size": 2},
    "residual_duality": {"window": 3}, "deep_delta": {"layers": 7}, "depth_weights": {"layers": 7},
}  # fmt: skip


def model(name: str | None, **settings) -> ResidualLM:
    torch.manual_seed(0)
    layers = [
        [regard.create("short_swa", dim=C, heads=H, window=3), regard.create("rope", dim=C, heads=H)] for _ in range(2)
    ]
    depth = None if name is None else regard.create(name.partition(":")[0], dim=C, heads=H, **settings)
    return ResidualLM(V, C, layers, depth=depth, generator=torch.Generator().manual_seed(1)).double().eval()


def ids() -> torch.Tensor:
    return torch.randint(V, (2, N), generator=torch.Generator().manual_seed(2))


def test_the_sum_is_the_plain_residual() -> None:
    plain, own = model(None), model("attention_residuals", layers=7, norm="sum")
    torch.testing.assert_close(own(ids()), plain(ids()))
    torch.testing.assert_close(model("depth_weights", layers=7)(ids()), plain(ids()))
    # The mean of all sources is their sum but for its size, which the norm before each sub-layer takes away.
    mean = model("attention_residuals", layers=7)
    torch.testing.assert_close(mean(ids()), plain(ids()))
    assert isinstance(mean.depth, AttentionResiduals)
    torch.nn.init.normal_(mean.depth.query)
    assert (mean(ids()) - plain(ids())).abs().max() > 1e-3


@pytest.mark.parametrize("name", DEPTHS)
def test_decoding_and_every_token_agree_with_the_whole(name: str) -> None:
    made, x = model(name, **DEPTHS[name]), ids()
    whole, state, outs = made(x), made.init_state(2), []
    for part in x.split([4, 1, 1, 3], 1):
        out, state = made.step(state, part)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), whole)
    later = x.clone()
    later[:, 5:] = (later[:, 5:] + 1) % V
    torch.testing.assert_close(made(later)[:, :5], whole[:, :5])


@pytest.mark.parametrize("name", DEPTHS)
def test_what_was_read_follows_from_the_sources(name: str) -> None:
    made = model(name, **DEPTHS[name])
    trace = made.trace(ids())
    assert len(trace.read) == len(trace.given) == len(trace.sources) - 1 == 6
    assert made.depth is not None
    for read, whole in zip(trace.read, made.depth(trace.sources).unbind(2), strict=False):
        torch.testing.assert_close(read, whole)
    added = (
        trace.given if made.depth.feeds == "outputs" else [r + g for r, g in zip(trace.read, trace.given, strict=True)]
    )
    for source, one in zip(trace.sources[1:], added, strict=True):
        torch.testing.assert_close(source, one)


def test_weights_along_the_layers_are_told() -> None:
    made = model("attention_residuals", layers=7)
    assert isinstance(made.depth, AttentionResiduals)
    alpha = made.depth.weights(torch.stack(made.trace(ids()).sources, 2)).mean((0, 1))
    assert alpha.shape == (7, 8)
    torch.testing.assert_close(alpha[3, :4], torch.full((4,), 0.25, dtype=alpha.dtype))


def test_padding_is_left_out() -> None:
    made, x = model("attention_residuals", layers=7), ids()
    real = torch.ones(2, N + 2, dtype=torch.bool)
    real[:, :2] = False
    padded = torch.cat([torch.zeros(2, 2, dtype=x.dtype), x], 1)
    torch.testing.assert_close(made(padded, real)[:, 2:], made(x))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match=r"6 sub-layers, and AttentionResiduals has parameters for 5 .* Type layers=7"):
        model("attention_residuals", layers=5)
    with pytest.raises(ValueError, match="at least one layer; got 11 and 0 layers"):
        ResidualLM(V, C, [])
    with pytest.raises(ShapeError, match="dim=16, and its depth is 8 wide"):
        ResidualLM(V, C, [regard.create("rope", dim=C, heads=H)], depth=AttentionResiduals(8))
    with pytest.raises(ShapeError, match="dim=16, and a layer is 8 wide"):
        ResidualLM(V, C, [regard.create("rope", dim=8, heads=H)])
    with pytest.raises(ShapeError, match=r"ids as whole numbers \[B, N\]; got torch.float32"):
        model(None)(torch.zeros(2, 3))
