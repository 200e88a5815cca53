"""The speech encoder: strided attention, what padding and causality leave alone, lengths, and what is refused."""

from __future__ import annotations

import math

import pytest
import torch

from regard.backbones.speech import ConformerBlock, Convolution, EfficientConformer, StridedAttention
from regard.errors import ShapeError
from regard.mechanisms.heads import GroupedAttention


def _tokens(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _strided(**settings: object) -> StridedAttention:
    torch.manual_seed(0)
    made = StridedAttention(16, 2, **settings).double()  # type: ignore[arg-type]
    for parameter in made.parameters():
        parameter.data.add_(0.2 * torch.randn_like(parameter))
    return made


def _looped(layer: StridedAttention, x: torch.Tensor) -> torch.Tensor:
    """A query, a head and a key at a time."""
    N, C, H, D, rows = x.shape[1], 16, 2, 8, []
    q, k, v = layer.q(x), layer.k(x), layer.v(x)
    for i in range(0, N, layer.stride):
        heads = []
        for h in range(H):
            own, scores = slice(h * D, h * D + D), []
            seen = [j for j in range(N) if layer.window is None or i // layer.window == j // layer.window]
            seen = [j for j in seen if j <= i or not layer.causal]
            for j in seen:
                asked, placed = q[:, i], 0.0
                if layer.relative:
                    waves = [f((i - j) / 10000 ** (2 * c / C)) for c in range(C // 2) for f in (math.sin, math.cos)]
                    e = layer.position(torch.tensor(waves, dtype=torch.float64))
                    placed = ((q[:, i] + layer.of_position)[:, own] * e[own]).sum(-1)
                    asked = asked + layer.of_content
                scores.append(((asked[:, own] * k[:, j, own]).sum(-1) + placed) / math.sqrt(D))
            heads.append((torch.softmax(torch.stack(scores, -1), -1)[..., None] * v[:, seen, own]).sum(1))
        rows.append(torch.cat(heads, -1))
    return layer.out(torch.stack(rows, 1))


@pytest.mark.parametrize(
    "settings",
    [{}, {"stride": 3, "relative": True}, {"window": 4}, {"window": 6, "stride": 3, "relative": True, "causal": True}],
)
def test_strided_attention_is_what_loops_give(settings: dict[str, object]) -> None:
    layer, x = _strided(**settings), _tokens(2, 11, 16)
    torch.testing.assert_close(layer(x), _looped(layer, x))
    assert layer(x).shape == (2, math.ceil(11 / layer.stride), 16)


@pytest.mark.parametrize("relative", [False, True])
def test_a_stride_of_one_is_the_layer_of_groups_of_one(relative: bool) -> None:
    layer, x = _strided(stride=1, relative=relative), _tokens(2, 7, 16)
    other = GroupedAttention(16, 2, group=1, relative=relative).double()
    other.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), other(x))


def _encoder(**settings: object) -> EfficientConformer:
    torch.manual_seed(0)
    given = {"dims": (12, 16), "blocks": (2, 1), "groups": (3, 1), "heads": 2, "kernel": 5, **settings}
    return EfficientConformer(10, 6, **given).double().eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("strided", ["convolution", "attention"])
def test_padding_changes_nothing_and_lengths_are_halved(strided: str) -> None:
    made, x = _encoder(strided=strided), _tokens(1, 21, 10)
    alone, all_real = made(x)
    assert alone.shape == (1, 6, 7)
    assert all_real.all()
    wide = torch.cat([x, _tokens(1, 11, 10) * 20], 1)
    both = torch.cat([wide, _tokens(1, 32, 10)])
    padding = torch.ones(2, 32, dtype=torch.bool)
    padding[0, 21:] = False
    logits, real = made(both, padding)
    assert real.sum(1).tolist() == [6, 8]
    torch.testing.assert_close(logits[:1][real[:1]], alone[0])


def test_a_causal_encoder_sees_nothing_ahead() -> None:
    for strided in ("convolution", "attention"):
        made, x = _encoder(causal=True, strided=strided), _tokens(1, 24, 10).requires_grad_()
        (slope,) = torch.autograd.grad(made(x)[0][:, 2].sum(), x)
        reached = slope[0].abs().sum(-1).nonzero()[:, 0].tolist()
        assert max(reached) == 8  # the third of every fourth
    wide = _encoder()
    (slope,) = torch.autograd.grad(wide(x)[0][:, 2].sum(), x)
    assert slope[0, -1].abs().sum() > 0


def test_statistics_of_a_batch_are_of_what_is_real() -> None:
    torch.manual_seed(0)
    made, x = Convolution(8, 8, kernel=3).double().train(), _tokens(1, 9, 8)
    padding = torch.ones(1, 12, dtype=torch.bool)
    padding[:, 9:] = False
    padded = torch.cat([x, _tokens(1, 3, 8) * 50], 1)
    torch.testing.assert_close(made(padded, padding)[:, :9], made(x))


def test_every_parameter_learns() -> None:
    made = _encoder(strided="attention").train()
    made(_tokens(2, 30, 10))[0].square().sum().backward()
    inert = ("k.bias", "position.bias", "depthwise.bias", "stem.bias")  # a score's constant, or before a norm
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None, name
        assert name.endswith(inert) or parameter.grad.abs().max() > 1e-9, name


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="window must be a multiple of stride=2; got 5. Type window=4"):
        _strided(window=5)
    with pytest.raises(ValueError, match="stride must be at least 1; got 0"):
        _strided(stride=0)
    with pytest.raises(ValueError, match="needs an even dim; got 9"):
        StridedAttention(9, 3, relative=True)
    with pytest.raises(ShapeError, match="not a multiple of heads=3"):
        StridedAttention(16, 3)
    with pytest.raises(ShapeError, match=r"takes \[B, N, 16\]; got"):
        _strided()(_tokens(1, 4, 8))
    with pytest.raises(ShapeError, match=r"padding as booleans \[1, 4\]"):
        _strided()(_tokens(1, 4, 16), torch.ones(1, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match="kernel must be odd; got 4"):
        Convolution(8, 8, kernel=4)
    with pytest.raises(ValueError, match="strided must be 'convolution' or 'attention'; got 'pooling'"):
        ConformerBlock(8, 2, strided="pooling")
    with pytest.raises(ValueError, match="a group for each stage; got dims="):
        _encoder(groups=(3,))
