"""Normalisers against float64 sums in plain Python, with empty rows, hidden nans and gradients."""

import math

import pytest
import torch

from regard.edits import Normaliser, Sigmoid, Softmax, SoftmaxOffByOne, SoftmaxWithSinks, softmax
from regard.errors import ShapeError, Unsupported

B, H, N, M = 2, 3, 4, 5
SINKS = [0.5, -math.inf, -2.0]


def _share(sink):
    def row(scores: list[float], h: int) -> list[float]:
        bottom = sum(math.exp(s) for s in scores) + (math.exp(sink[h]) if sink else 0.0)
        return [math.exp(s) / bottom if bottom else 0.0 for s in scores]

    return row


CASES = {
    "softmax": (Softmax(), _share(None)),
    "sinks": (SoftmaxWithSinks(torch.tensor(SINKS)), _share(SINKS)),
    "off_by_one": (SoftmaxOffByOne(), _share([0.0] * 3)),
    "sigmoid": (Sigmoid(), lambda scores, h: [1 / (1 + math.exp(-s)) for s in scores]),
    "sigmoid_bias": (Sigmoid(-1.5), lambda scores, h: [1 / (1 + math.exp(1.5 - s)) for s in scores]),
    "sigmoid_head": (
        Sigmoid(torch.tensor([0.0, 1.0, -1.0])),
        lambda scores, h: [1 / (1 + math.exp(-s - [0.0, 1.0, -1.0][h])) for s in scores],
    ),
}


def _scores() -> torch.Tensor:
    return 2 * torch.randn(B, H, N, M, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def _seen() -> torch.Tensor:
    seen = torch.rand(B, 1, N, M, generator=torch.Generator().manual_seed(1)) < 0.6
    seen[0, 0, 2] = False
    return seen


def _expected(row, scores: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
    out = torch.zeros_like(scores)
    seen = seen.expand_as(scores)
    for b in range(B):
        for h in range(H):
            for n in range(N):
                held = [m for m in range(M) if seen[b, h, n, m]]
                weights = row([scores[b, h, n, m].item() for m in held], h)
                for m, weight in zip(held, weights, strict=True):
                    out[b, h, n, m] = weight
    return out


@pytest.mark.parametrize("name", CASES)
def test_weights_equal_the_formula(name):
    normaliser, row = CASES[name]
    found = normaliser.weights(_scores(), _seen())
    torch.testing.assert_close(found, _expected(row, _scores(), _seen()), rtol=1e-13, atol=1e-15)
    everything = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    torch.testing.assert_close(
        normaliser.weights(_scores()), _expected(row, _scores(), everything), rtol=1e-13, atol=1e-15
    )
    torch.testing.assert_close(normaliser.weights(_scores(), everything), normaliser.weights(_scores()))


@pytest.mark.parametrize("name", CASES)
def test_rows_that_see_nothing_are_zero_and_have_zero_gradients(name):
    normaliser, _ = CASES[name]
    scores = _scores()
    hidden = ~_seen().expand_as(scores)
    scores[hidden] = math.nan  # what is hidden may hold anything
    scores.requires_grad_()
    found = normaliser.weights(scores, _seen())
    assert torch.equal(found[hidden], torch.zeros_like(found[hidden]))
    (found * torch.arange(M)).sum().backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad[hidden], torch.zeros_like(scores.grad[hidden]))
    assert scores.grad.isfinite().all()
    assert scores.grad.abs().sum() > 0


@pytest.mark.parametrize("name", CASES)
def test_a_row_hidden_by_a_bias_of_minus_infinity_is_zero(name):
    scores = _scores()
    scores[1, :, 0] = -math.inf
    scores.requires_grad_()
    for seen in (None, torch.ones(1, 1, N, M, dtype=torch.bool)):
        found = CASES[name][0].weights(scores, seen)
        assert torch.equal(found[1, :, 0], torch.zeros(H, M, dtype=torch.float64))
        found.sum().backward()
        assert scores.grad is not None
        assert scores.grad.isfinite().all()


def test_a_nan_that_is_seen_stays_visible():
    scores = _scores()
    scores[0, 0, 0, 3] = math.nan
    assert softmax.weights(scores)[0, 0, 0].isnan().all()
    assert not softmax.weights(scores)[0, 0, 1].isnan().any()


@pytest.mark.parametrize("name", CASES)
def test_precision_is_at_least_float32(name):
    normaliser, _ = CASES[name]
    assert normaliser.weights(_scores().bfloat16(), _seen()).dtype == torch.float32
    assert normaliser.weights(_scores().float(), _seen()).dtype == torch.float32
    assert normaliser.weights(_scores(), _seen()).dtype == torch.float64


@pytest.mark.parametrize("name", CASES)
def test_large_scores_do_not_overflow(name):
    found = CASES[name][0].weights(1e4 * _scores().float(), _seen())
    assert found.isfinite().all()
    assert (found <= 1).all()


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_right(name):
    normaliser, _ = CASES[name]
    assert torch.autograd.gradcheck(lambda s: normaliser.weights(s, _seen()), (_scores().requires_grad_(),))


def test_gradients_reach_sink_logits_and_the_sigmoid_bias():
    logits = torch.tensor([0.3, -1.0, 2.0], dtype=torch.float64, requires_grad=True)
    assert SoftmaxWithSinks(logits).needs_grad
    assert torch.autograd.gradcheck(lambda x: SoftmaxWithSinks(x).weights(_scores(), _seen()), (logits,))
    assert torch.autograd.gradcheck(lambda x: Sigmoid(x).weights(_scores(), _seen()), (logits,))


@pytest.mark.parametrize("name", [name for name, (normaliser, _) in CASES.items() if normaliser.has_lse])
def test_from_lse_equals_the_weights(name):
    normaliser, _ = CASES[name]
    values = torch.randn(B, H, M, 6, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    scores = _scores().masked_fill(~_seen(), -math.inf)
    lse = scores.logsumexp(-1)
    out = softmax.weights(_scores(), _seen()) @ values
    assert lse[0, 0, 2] == -math.inf
    expected = normaliser.weights(_scores(), _seen()) @ values
    torch.testing.assert_close(normaliser.from_lse(out, lse), expected, rtol=1e-12, atol=1e-14)
    heads = torch.tensor([2, 0])
    some = normaliser.from_lse(out[:, heads], lse[:, heads], heads.view(1, -1, 1, 1))
    torch.testing.assert_close(some, expected[:, heads], rtol=1e-12, atol=1e-14)
    assert normaliser.from_lse(out.bfloat16(), lse.float()).dtype == torch.bfloat16


@pytest.mark.parametrize("name", CASES)
def test_some_of_the_heads(name):
    normaliser, _ = CASES[name]
    heads = torch.tensor([2, 0])
    some = normaliser.weights(_scores()[:, heads], _seen(), h=heads.view(1, -1, 1, 1))
    assert torch.equal(some, normaliser.weights(_scores(), _seen())[:, heads])


def test_sigmoid_is_no_function_of_the_log_sum_exp():
    assert not Sigmoid().has_lse
    with pytest.raises(Unsupported, match="Sigmoid is not a function of the log-sum-exp; use engine='rows'"):
        Sigmoid().from_lse(torch.zeros(1), torch.zeros(1))


def test_no_keys_at_all():
    for normaliser, _ in CASES.values():
        assert normaliser.weights(torch.zeros(B, H, N, 0)).shape == (B, H, N, 0)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: SoftmaxWithSinks(torch.ones(2, 2)), ShapeError, "must be [H], one per query head; got [2, 2]"),
        (lambda: SoftmaxWithSinks(torch.tensor([math.nan])), ValueError, "must be finite or -inf; got nan or inf"),
        (lambda: SoftmaxWithSinks(torch.ones(2, dtype=torch.int)), ValueError, "float tensor [H]; got torch.int32"),
        (lambda: SoftmaxWithSinks([1.0]), ValueError, "float tensor [H]; got list"),
        (lambda: Sigmoid(math.inf), ValueError, "Sigmoid.bias must be finite; got inf."),
        (lambda: Sigmoid(torch.ones(2, 2)), ShapeError, "Sigmoid.bias must be a number or floats [H]"),
        (
            lambda: Sigmoid(torch.ones(2)).check(3),
            ShapeError,
            "Sigmoid.bias has 2 numbers for 3 query heads; give [3].",
        ),
        (lambda: SoftmaxWithSinks(torch.ones(2)).check(3), ShapeError, "SoftmaxWithSinks.logits has 2 numbers"),
    ],
)
def test_wrong_settings_say_what_to_do(make, error, text):
    with pytest.raises(error) as caught:
        make()
    assert text in str(caught.value)


def test_equal_settings_are_equal():
    assert Softmax() == softmax
    assert hash(SoftmaxOffByOne()) == hash(SoftmaxOffByOne())
    assert isinstance(softmax, Normaliser)
