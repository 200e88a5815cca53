"""FoPE: its tables."""

from __future__ import annotations

import math

import pytest
import torch

from regard.errors import RegardError, ShapeError
from regard.layers import create
from regard.mechanisms.positions import FoPE, PRoPE, RoPE

H, D = 3, 16


def made(**settings: object) -> FoPE:
    torch.manual_seed(0)
    return FoPE(H, D, **settings).double()  # type: ignore[arg-type]


def tables(position: FoPE, *at: int) -> tuple[torch.Tensor, torch.Tensor]:
    cos, sin = position.tables(torch.tensor([at]), torch.zeros((), dtype=torch.float64))
    return cos[0], sin[0]


def test_frequencies_without_a_whole_turn_are_left_out():
    # A width of 16 has the steps 10^0, 10^-0.5, ..; 2 pi / 100 is 10^-1.2.
    assert made(length=100).kept == 3
    assert made(length=6).kept == 0
    assert made(length=7).kept == 1
    assert made(length=None).kept == 8


def test_position_zero_has_no_sines_and_sums_of_coefficients():
    position = made(length=100)
    cos, sin = tables(position, 0)
    assert torch.equal(sin, torch.zeros_like(sin))
    assert torch.allclose(cos[:, 0, :3], position.cos.sum(1))
    assert torch.equal(cos[:, 0, 3:], torch.ones(H, 5, dtype=torch.float64))


def test_pairs_without_a_series_do_not_know_the_position():
    paper, code = made(length=100), made(length=100, zero_pad="code")
    for position, value in ((paper, 0.0), (code, 1.0)):
        cos, sin = tables(position, 0, 5, 900)
        assert (cos[..., 3:] == 1).all()
        assert (sin[..., 3:] == value).all()
        assert not torch.allclose(cos[:, 0, :3], cos[:, 1, :3])
    x = torch.randn(1, H, 1, D, dtype=torch.float64)
    # The code's padding turns by 45 degrees and stretches by sqrt(2), at every position alike.
    a, b = (code.turn(x, torch.tensor([[n]]))[..., [7, 15]] for n in (0, 70))
    assert torch.equal(a, b)
    assert torch.allclose(a.norm(dim=-1), x[..., [7, 15]].norm(dim=-1) * math.sqrt(2))


def test_without_noise_it_is_rope_less_its_slow_pairs():
    x, at = torch.randn(2, H, 9, D, dtype=torch.float64), torch.arange(9)[None]
    assert torch.allclose(made(length=100, gain=0.0).turn(x, at), PRoPE(p=3 / 8).turn(x, at))


def test_noise_has_the_promised_size_and_heads_and_waves_have_their_own():
    torch.manual_seed(1)
    position = FoPE(64, 128, length=None, gain=0.6)
    for values in (position.cos, position.sin):
        noise = values - torch.eye(64)
        assert float(noise.std()) == pytest.approx(0.6 * math.sqrt(2 / (64 * 64 + 64 * 64)), rel=0.02)
    assert not torch.equal(position.cos, position.sin)
    assert not torch.equal(position.cos[0], position.cos[1])


def test_fewer_series_take_frequencies_at_even_strides():
    position = made(length=None, series=3, gain=0.0)
    assert position.cos.shape == (H, 8, 3)
    assert position.cos[0].nonzero().tolist() == [[0, 0], [3, 1], [6, 2]]
    cos, _ = tables(position, 4)
    want = [math.cos(4 * 10 ** (-m / 2)) for m in (0, 3, 6)] + [1.0] * 5
    assert cos[0, 0].tolist() == pytest.approx(want)


def test_scores_know_the_distance_alone_only_without_noise():
    q, k = torch.randn(2, 1, H, 1, D, dtype=torch.float64)

    def score(position: FoPE, i: int, j: int) -> torch.Tensor:
        return (position.turn(q, torch.tensor([[i]])) * position.turn(k, torch.tensor([[j]]))).sum(-1)

    assert torch.allclose(score(made(gain=0.0), 9, 4), score(made(gain=0.0), 29, 24))
    assert not torch.allclose(score(made(), 9, 4), score(made(), 29, 24), rtol=1e-3)


def test_a_common_multiple_of_all_periods_changes_nothing():
    # A base of 2 ^ (16 / 2) makes the steps 1, 1/2, 1/4, .., whose periods all divide 128 times 2 pi.
    position, period = made(length=None, base=256.0, gain=0.6), 256 * math.pi
    at = torch.tensor([[0.0, 3.0, 17.0]], dtype=torch.float64)
    like = torch.zeros((), dtype=torch.float64)
    for here, there in zip(position.tables(at, like), position.tables(at + period, like), strict=True):
        assert torch.allclose(here, there)
        assert not torch.allclose(here, position.tables(at + period / 2, like)[0], atol=1e-2)


def test_scaling_slows_what_is_kept_and_keeps_what_was_kept():
    for scaling in ("linear", "yarn"):
        plain, slow = made(length=100), made(length=100, scaling=scaling, factor=4.0)
        assert slow.kept == plain.kept == 3
    slow = made(length=100, scaling="linear", factor=4.0)
    for a, b in zip(tables(slow, 4, 40), tables(plain, 1, 10), strict=True):
        assert torch.allclose(a, b)
    x, at = torch.randn(2, H, 9, D, dtype=torch.float64), torch.arange(9)[None]
    yarn = {"scaling": "yarn", "factor": 4.0}
    want = RoPE(**yarn, original_length=100, attention_factor=1.0).turn(x, at)
    found = made(length=100, gain=0.0, **yarn).turn(x, at)
    kept = [0, 1, 2, 8, 9, 10]
    assert torch.allclose(found[..., kept], want[..., kept])
    assert not torch.allclose(found[..., kept], made(length=100, gain=0.0).turn(x, at)[..., kept], atol=1e-3)


def test_no_other_position_goes_with_it_and_tables_must_have_its_shape():
    with pytest.raises(RegardError, match="'fope' is the position already; leave position= out"):
        create("fope", dim=16, heads=2, position="rope")
    with pytest.raises(RuntimeError, match=r"shape torch.Size\(\[3, 3, 3\]\)"):
        made(length=None).load_state_dict(made(length=100).state_dict())


def test_coefficients_are_fixed_unless_learnable():
    assert not list(made().parameters())
    assert set(made().state_dict()) == {"cos", "sin"}
    assert {name: p.shape for name, p in made(learnable=True, length=100).named_parameters()} == {
        "cos": (H, 3, 3),
        "sin": (H, 3, 3),
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"length": 0}, "length must be at least 1, or None"),
        ({"series": 9}, "from 0 to 8, the number of pairs; got 9"),
        ({"gain": -0.1}, "gain must be at least 0"),
        ({"zero_pad": "zero"}, "must be one of 'paper', 'code'"),
        ({"base": 1.0}, "greater than 1"),
        ({"factor": 2.0}, "needs a scaling. Type scaling='linear'"),
        ({"scaling": "yarn", "length": None}, "the length that the model was trained at. Type length=512"),
        ({"scaling": "ntk"}, "one of 'none', 'linear', 'yarn'; got 'ntk'"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        made(**settings)


def test_heads_of_another_width_are_refused():
    with pytest.raises(ShapeError, match="even width; got 5"):
        FoPE(2, 5)
    with pytest.raises(ShapeError, match="width 16, and the projection has 8 features"):
        made().width(8)
