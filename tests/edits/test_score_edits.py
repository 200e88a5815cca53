"""Score edits against plain Python, as blocks, under vmap, with gradients, and with wrong settings."""

import math

import pytest
import torch
from torch.func import vmap

from regard.edits import ALiBi, Bias, Edit, Emphasis, Softcap, Temperature
from regard.errors import ShapeError

B, H, N, M = 2, 3, 4, 5
SLOPES = [0.5, 0.25, 0.1]
BIAS = torch.randn(B, H, N, M, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

# Each edit, and what it does to one score according to its formula.
CASES = {
    "alibi": (ALiBi(torch.tensor(SLOPES, dtype=torch.float64)), lambda s, b, h, i, j: s - SLOPES[h] * abs(i - j)),
    "bias": (Bias(BIAS), lambda s, b, h, i, j: s + BIAS[b, h, i, j].item()),
    "bias_row": (Bias(BIAS[0, 0, 0]), lambda s, b, h, i, j: s + BIAS[0, 0, 0, j].item()),
    "bias_head": (Bias(BIAS[0, :, :1, :1]), lambda s, b, h, i, j: s + BIAS[0, h, 0, 0].item()),
    "softcap": (Softcap(2.0), lambda s, b, h, i, j: 2.0 * math.tanh(s / 2.0)),
    "temperature": (Temperature(0.7), lambda s, b, h, i, j: s / 0.7),
    "temperature_head": (Temperature(torch.tensor([0.5, 1.0, 2.0])), lambda s, b, h, i, j: s / [0.5, 1.0, 2.0][h]),
    "emphasis": (
        Emphasis([(1, 3), (2, 4)], math.log(100)),
        lambda s, b, h, i, j: s + (math.log(100) if j in (1, 2, 3) else 0),
    ),
    "emphasis_head": (
        Emphasis([(0, 1)], torch.tensor([1.0, 2.0, 3.0])),
        lambda s, b, h, i, j: s + ([1.0, 2.0, 3.0][h] if j == 0 else 0),
    ),
}


def _scores() -> torch.Tensor:
    return torch.randn(B, H, N, M, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _expected(formula) -> torch.Tensor:
    scores = _scores()
    out = torch.empty_like(scores)
    for b in range(B):
        for h in range(H):
            for i in range(N):
                for j in range(M):
                    out[b, h, i, j] = formula(scores[b, h, i, j].item(), b, h, i, j)
    return out


def _indices() -> tuple[torch.Tensor, ...]:
    shapes = [(B, (-1, 1, 1, 1)), (H, (1, -1, 1, 1)), (N, (1, 1, -1, 1)), (M, (1, 1, 1, -1))]
    return tuple(torch.arange(n).view(shape) for n, shape in shapes)


def _vmapped(edit: Edit, scores: torch.Tensor) -> torch.Tensor:
    over = edit.at
    for dims in [
        (0, None, None, None, 0),
        (0, None, None, 0, None),
        (0, None, 0, None, None),
        (0, 0, None, None, None),
    ]:
        over = vmap(over, in_dims=dims)
    return over(scores, *(torch.arange(n) for n in (B, H, N, M)))


@pytest.mark.parametrize("name", CASES)
def test_a_block_equals_the_formula(name):
    edit, formula = CASES[name]
    torch.testing.assert_close(edit.at(_scores(), *_indices()), _expected(formula), rtol=0, atol=1e-14)


@pytest.mark.parametrize("name", CASES)
def test_vmapped_scalars_equal_the_block(name):
    edit, _ = CASES[name]
    assert torch.equal(_vmapped(edit, _scores()), edit.at(_scores(), *_indices()))


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_the_scores_keep_their_dtype_and_are_not_changed(name, dtype):
    scores = _scores().to(dtype)
    before = scores.clone()
    out = CASES[name][0].at(scores, *_indices())
    assert out.dtype == dtype
    assert out.shape == scores.shape
    assert torch.equal(scores, before)


@pytest.mark.parametrize("name", [name for name, (edit, _) in CASES.items() if edit.additive])
def test_an_additive_edit_is_the_scores_plus_its_bias(name):
    edit, _ = CASES[name]
    bias = edit.bias(*_indices(), dtype=torch.float64)
    assert torch.equal(_scores() + bias, edit.at(_scores(), *_indices()))


def test_curves_are_not_additive():
    for edit in (Softcap(1.0), Temperature(2.0)):
        assert not edit.additive
        with pytest.raises(NotImplementedError, match="not additive; use at"):
            edit.bias(*_indices())


@pytest.mark.parametrize("heads", [1, 2, 3, 8, 12, 20])
def test_standard_slopes(heads):
    # The published recursion: a geometric sequence from 2^(-8/n) for 2^k heads, filled up by every other slope of 2n.
    def published(n: int) -> list[float]:
        if math.log2(n).is_integer():
            start = 2 ** (-(2 ** -(math.log2(n) - 3)))
            return [start * start**k for k in range(n)]
        closest = 2 ** math.floor(math.log2(n))
        return published(closest) + published(2 * closest)[0::2][: n - closest]

    torch.testing.assert_close(ALiBi(heads=heads).slopes.double(), torch.tensor(published(heads)).double())


def test_alibi_in_float64_is_not_rounded_to_float32():
    scores = torch.zeros(1, 3, 1, 1, dtype=torch.float64)
    far = torch.tensor(99_991).view(1, 1, 1, 1)
    out = ALiBi([0.1, 0.3, 0.7]).at(scores, torch.zeros(1, 1, 1, 1), torch.arange(3).view(1, 3, 1, 1), far, far * 0)
    slopes = torch.tensor([0.1, 0.3, 0.7]).double()
    assert torch.equal(out.flatten(), -slopes * 99_991)


def test_emphasis_counts_overlapping_and_touching_spans_once():
    assert Emphasis([(5, 9), (1, 3), (2, 4), (4, 5)], 1.0).spans == ((1, 9),)
    nothing = Emphasis([], 3.0)
    assert torch.equal(nothing.at(_scores(), *_indices()), _scores())


def test_emphasis_equals_scaling_the_other_weights_down():
    # PASTA multiplies the weights of keys outside the spans by alpha and normalises again.
    alpha = 0.01
    weights = _scores().softmax(-1)
    outside = torch.tensor([True, False, False, True, True])
    scaled = torch.where(outside, alpha * weights, weights)
    expected = scaled / scaled.sum(-1, keepdim=True)
    found = Emphasis([(1, 3)], -math.log(alpha)).at(_scores(), *_indices()).softmax(-1)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)


def test_gradients_reach_slopes_and_bias():
    slopes = torch.tensor(SLOPES, dtype=torch.float64, requires_grad=True)
    table = torch.randn(H, 1, M, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    scores = _scores().requires_grad_()
    assert ALiBi(slopes).needs_grad
    assert Bias(table).needs_grad
    assert not Bias(BIAS).needs_grad
    assert torch.autograd.gradcheck(
        lambda s, a, t: Bias(t).at(ALiBi(a).at(s, *_indices()), *_indices()), (scores, slopes, table)
    )


def test_a_block_of_bias_is_a_slice():
    bias = Bias(BIAS)
    assert torch.equal(bias.block(slice(1, 3), slice(0, 2)), BIAS[:, :, 1:3, :2])
    assert torch.equal(bias.block(slice(1, 3), torch.tensor([4, 0])), BIAS[:, :, 1:3][..., [4, 0]])
    assert Bias(BIAS[0, 0, 0]).block(slice(1, 3), slice(0, 2)).shape == (1, 1, 1, 2)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_takes_edits_as_score_mods():
    from torch.nn.attention.flex_attention import flex_attention

    torch.manual_seed(0)
    q, k, v = torch.randn(B, H, N, 8), torch.randn(B, H, M, 8), torch.randn(B, H, M, 8)
    for name, (edit, _) in CASES.items():
        scores = edit.at(q @ k.mT / 8**0.5, *_indices())
        out = flex_attention(q, k, v, score_mod=edit.at)
        torch.testing.assert_close(out, scores.softmax(-1) @ v, msg=name)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: ALiBi(), ValueError, "ALiBi needs either slopes [H] or heads=H; type ALiBi(heads=8)."),
        (lambda: ALiBi([1.0], heads=1), ValueError, "ALiBi needs either slopes"),
        (lambda: ALiBi(heads=0), ValueError, "ALiBi.heads must be at least 1; got 0."),
        (lambda: ALiBi(torch.ones(2, 2)), ShapeError, "got [2, 2]"),
        (lambda: ALiBi(torch.ones(2, dtype=torch.long)), ValueError, "Use .float()"),
        (lambda: ALiBi([math.nan]), ValueError, "ALiBi.slopes must be finite; got inf or nan in it."),
        (lambda: Bias(torch.ones(2, 2, dtype=torch.bool)), ValueError, "pass a boolean mask as where="),
        (lambda: Bias(torch.ones(2, 2, dtype=torch.long)), ValueError, "use .float()"),
        (lambda: Bias(torch.ones(1, 1, 1, 1, 1)), ShapeError, "must broadcast to [B, H, N, M]; got [1, 1, 1, 1, 1]"),
        (lambda: Softcap(0.0), ValueError, "Softcap.cap must be greater than 0; got 0.0."),
        (lambda: Softcap(math.inf), ValueError, "Softcap.cap must be finite; got inf."),
        (lambda: Softcap(torch.tensor(1.0)), ValueError, "Softcap.cap must be a number"),
        (lambda: Temperature(-1.0), ValueError, "Temperature.t must be greater than 0; got -1.0."),
        (lambda: Temperature(torch.ones(2, 2)), ShapeError, "Temperature.t must be a number or floats [H]"),
        (lambda: Temperature(torch.tensor([1.0, 0.0])), ValueError, "Temperature.t must be greater than 0"),
        (lambda: Emphasis([(3, 3)], 1.0), ValueError, "0 <= start < stop; got (3, 3)"),
        (lambda: Emphasis([(-1, 3)], 1.0), ValueError, "got (-1, 3)"),
        (lambda: Emphasis([(1, 3)], -math.inf), ValueError, "pass a mask as where="),
        (lambda: Emphasis([(1, 3)], math.nan), ValueError, "Emphasis.log_weight must be finite; got nan."),
    ],
)
def test_wrong_settings_say_what_to_do(make, error, text):
    with pytest.raises(error) as caught:
        make()
    assert text in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "text"),
    [
        (ALiBi(heads=8), "ALiBi.slopes has 8 numbers for 3 query heads; give [3]."),
        (Temperature(torch.ones(2)), "Temperature.t has 2 numbers for 3 query heads"),
        (Emphasis([(0, 1)], torch.ones(2)), "Emphasis.log_weight has 2 numbers"),
        (Bias(torch.zeros(N, M + 1)), "Bias.values [1, 1, 4, 6] do not broadcast to [B, H, N, M] = [2, 3, 4, 5]."),
    ],
)
def test_check_refuses_what_does_not_fit(edit, text):
    with pytest.raises(ShapeError) as caught:
        edit.check(B, H, N, M)
    assert str(caught.value).startswith(text)


@pytest.mark.parametrize("name", CASES)
def test_check_accepts_what_fits(name):
    CASES[name][0].check(B, H, N, M)


def test_reprs_are_short_and_telling():
    assert repr(Emphasis([(1, 3)], 2.0)) == "Emphasis([(1, 3)], log_weight=2.0)"
    assert repr(Bias(BIAS)) == "Bias([2, 3, 4, 5])"
    assert repr(ALiBi(heads=8)) == "ALiBi(slopes=[8])"
    assert repr(Softcap(30.0)) == "Softcap(cap=30.0)"
