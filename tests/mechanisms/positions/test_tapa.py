"""TAPA: what its scores know, and how they spread with the distance."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from regard.errors import RegardError, ShapeError
from regard.layers import create
from regard.mechanisms import Call
from regard.mechanisms.positions import TAPA


def scores(position: TAPA, q: Tensor, k: Tensor, q_at: Tensor, k_at: Tensor) -> Tensor:
    call = Call(tokens=q, memory=k, q_positions=q_at, k_positions=k_at)
    (edit,) = position.edits(q, k, call)
    return edit.values  # type: ignore[attr-defined]


def random(N: int, D: int = 8, heads: int = 2) -> tuple[Tensor, Tensor]:
    q, k = torch.randn(2, 1, heads, N, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return q, k


@pytest.mark.parametrize("phase", ["quadratic", "linear"])
def test_scores_know_the_distance_alone_and_not_its_sign(phase):
    q, k = random(6)
    at = torch.arange(6)[None]
    found = scores(TAPA(phase=phase), q, k, at, at)
    assert torch.equal(found, scores(TAPA(phase=phase), q, k, at + 500, at + 500))
    assert torch.equal(found, scores(TAPA(phase=phase), q, k, -at + 5, -at + 5))
    assert not torch.allclose(found, scores(TAPA(phase=phase), q, k, at * 2, at * 2), rtol=1e-3)


def test_at_no_distance_the_score_is_the_content():
    q, k = random(5)
    at = torch.zeros(1, 5, dtype=torch.long)
    want = q[..., :4] @ k[..., :4].mT / 2
    assert torch.allclose(scores(TAPA(), q, k, at, at), want)
    # And at every distance where one side has no phase.
    q[..., 4:] = 0
    assert torch.allclose(scores(TAPA(), q, k, torch.arange(5)[None], torch.arange(5)[None]), want)


def test_the_linear_phase_is_the_sum_of_both_sides():
    q, k = random(4)
    at = torch.arange(4)[None]
    found = scores(TAPA(phase="linear", theta=0.25, alpha=0.5), q, k, at, at)
    i, j = 3, 1
    phase = (q[..., i, 2:].sum(-1) + k[..., j, 2:].sum(-1)) / math.sqrt(6)
    content = (q[..., i, :2] * k[..., j, :2]).sum(-1) / math.sqrt(2)
    assert torch.allclose(found[..., i, j], content * torch.cos(2 * math.pi * 2**0.5 * phase))


def test_a_phase_of_ones_own_takes_the_place_of_the_named_ones():
    q, k = random(5)
    at = torch.arange(5)[None]
    for name, own in (
        ("quadratic", lambda p, r: torch.einsum("bhnd,bhmd->bhnm", p, r) / 2),
        ("linear", lambda p, r: (p.sum(-1)[..., :, None] + r.sum(-1)[..., None, :]) / 2),
    ):
        assert torch.allclose(scores(TAPA(phase=own), q, k, at, at), scores(TAPA(phase=name), q, k, at, at))
    still = scores(TAPA(phase=lambda p, r: torch.zeros(*p.shape[:3], r.shape[2], dtype=p.dtype)), q, k, at, at)
    assert torch.allclose(still, q[..., :4] @ k[..., :4].mT / 2)
    with pytest.raises(ShapeError, match=r"must give phases \[1, 2, 5, 5\]; got \[1, 2, 5\]"):
        scores(TAPA(phase=lambda p, r: p.sum(-1)), q, k, at, at)


def test_a_phase_that_is_a_module_is_trained():
    class Bilinear(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.matrix = torch.nn.Parameter(torch.randn(4, 4, dtype=torch.float64))

        def forward(self, p: Tensor, r: Tensor) -> Tensor:
            return p @ self.matrix @ r.mT

    layer = create("tapa", dim=16, heads=2, phase=Bilinear()).double()
    layer(torch.randn(1, 5, 16, dtype=torch.float64)).square().sum().backward()
    slope = layer.get_parameter("position.phase.matrix").grad
    assert slope is not None
    assert slope.abs().min() > 0


def test_no_other_position_goes_with_it():
    with pytest.raises(RegardError, match="'tapa' is the position already; leave position= out"):
        create("tapa", dim=16, heads=2, position="rope")
    with pytest.raises(ShapeError, match=r"positions must be whole numbers \[5\]"):
        create("tapa", dim=16, heads=2)(torch.randn(1, 5, 16), positions=torch.arange(4))


def test_the_mean_cosine_falls_with_the_distance_as_predicted_and_the_spread_does_not():
    width, count = 8, 200_000
    source = torch.Generator().manual_seed(1)
    q, k = torch.randn(2, count, 1, 1, 2 * width, generator=source, dtype=torch.float64)
    q[..., :width] = k[..., :width] = 1.0  # a content of sqrt(width) everywhere
    for far in (1, 100):
        zero, at = torch.zeros(1, 1, dtype=torch.long), torch.full((1, 1), far)
        found = scores(TAPA(), q, k, at, zero).flatten() / math.sqrt(width)
        a = 2 * math.pi * far**0.1
        assert float(found.mean()) == pytest.approx((1 + a * a / width) ** (-width / 2), abs=0.01)
        assert float(found.square().mean()) > 0.49


def test_one_token_reads_its_own_value():
    layer = create("tapa", dim=8, heads=2)
    x = torch.randn(1, 1, 8)
    value = layer.get_submodule("projection.v")(x)
    assert torch.allclose(layer(x), layer.get_submodule("merge.out")(value), atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"theta": 0.3}, r"theta=0.3 of heads of width 8 is 2.4 features.*Type theta=0.25"),
        ({"theta": 0.0}, "above 0 and up to 1; got 0.0"),
        ({"theta": 1.5}, "above 0 and up to 1; got 1.5"),
        ({"alpha": 0.0}, "alpha must be above 0; got 0.0"),
        ({"phase": "cubic"}, "phase must be one of 'quadratic', 'linear'; got 'cubic'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        create("tapa", dim=16, heads=2, **settings)
