"""Queries from the mean of the latest tokens, and the distillation of transitions."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.errors import ShapeError
from regard.mechanisms.heads import LQueryAttention
from regard.mechanisms.heads.mqsa_ted import transition_counts, transition_distillation


def test_queries_vary_less_over_time_as_the_window_grows() -> None:
    x = torch.randn(4, 64, 32, generator=torch.Generator().manual_seed(0))
    call = regard.mechanisms.Call(tokens=x, memory=x, causal=True)
    spread = [float(LQueryAttention(32, 4, window=w).mean(x, call).var(1).mean()) for w in (1, 2, 3, 5, 9, 17)]
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > 5 * spread[-1]


def test_padding_between_real_tokens_is_absent() -> None:
    torch.manual_seed(0)
    layer = regard.create("mqsa_ted", dim=32, heads=4, window=3).double()
    x = torch.randn(1, 9, 32, dtype=torch.float64)
    real = torch.tensor([[True, False, True, True, False, False, True, True, True]])
    torch.testing.assert_close(layer(x, causal=True, padding=real)[real], layer(x[real][None], causal=True)[0])


def test_a_head_for_each_channel() -> None:
    layer = regard.create("mqsa_ted", dim=8, heads=8)
    assert layer(torch.randn(2, 5, 8), causal=True).shape == (2, 5, 8)


def test_counts_are_of_pairs_within_the_span() -> None:
    seen = torch.tensor([[0, 1, 2, -1], [-1, 1, 2, 2]])
    want = torch.zeros(3, 3)
    want[0, 1], want[1, 2], want[2, 2] = 1, 2, 1
    torch.testing.assert_close(transition_counts(seen, 3), want)
    want[0, 2] += 1
    want[1, 2] += 1
    torch.testing.assert_close(transition_counts(seen, 3, span=2), want)


def test_the_loss_equals_one_item_at_a_time() -> None:
    torch.manual_seed(0)
    embedding, counts = torch.randn(5, 4, dtype=torch.float64) * 0.3, torch.randint(0, 4, (5, 5))
    counts[3] = 0  # an item that nothing follows has a flat teacher
    items = torch.tensor([[0, 3, -1], [2, 0, 4]])
    losses = []
    for i in (0, 3, 2, 0, 4):
        most = max(int(counts[i].max()), 1e-24)
        teach = torch.tensor([float(c) / most / 0.1 for c in counts[i]], dtype=torch.float64).softmax(0)
        student = torch.stack([(embedding[i] * embedding[j]).sum() * 4**0.5 / 0.1 for j in range(5)]).softmax(0)
        losses.append(-(teach * student.log()).sum())
    torch.testing.assert_close(transition_distillation(embedding, counts, items), torch.stack(losses).mean())


def test_the_loss_is_least_where_products_follow_the_transitions() -> None:
    torch.manual_seed(0)
    embedding = torch.randn(6, 4, dtype=torch.float64).mul(0.3).requires_grad_()
    products = (embedding @ embedding.T).detach() * 4**0.5
    counts = products + 1 - products.amax(1, keepdim=True)  # the same but for a number for each row; the largest is 1
    loss = transition_distillation(embedding, counts, torch.arange(6))
    teacher = (products / 0.1).softmax(1)
    torch.testing.assert_close(loss, -(teacher * teacher.log()).sum(1).mean())
    (slope,) = torch.autograd.grad(loss, embedding)
    torch.testing.assert_close(slope, torch.zeros_like(slope))
    for seed in range(5):
        off = torch.randn(6, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 0.1
        assert transition_distillation(embedding + off, counts, torch.arange(6)) > loss


def test_dropout_takes_the_generator() -> None:
    embedding, counts, items = torch.randn(5, 8), torch.ones(5, 5).tril(), torch.arange(5)

    def loss(seed: int) -> float:
        generator = torch.Generator().manual_seed(seed)
        return float(transition_distillation(embedding, counts, items, dropout=0.5, generator=generator))

    assert loss(1) == loss(1) != loss(2)


def test_what_does_not_fit_is_refused() -> None:
    embedding, counts, items = torch.randn(5, 8), torch.ones(5, 5), torch.arange(5)
    with pytest.raises(ValueError, match="window must be at least 1; got 0"):
        LQueryAttention(32, 4, window=0)
    with pytest.raises(ShapeError, match="not a multiple of heads=5"):
        LQueryAttention(32, 5)
    with pytest.raises(ShapeError, match=r"counts \[I, I\]; got \[5, 8\] and \[4, 5\]"):
        transition_distillation(embedding, counts[:4], items)
    with pytest.raises(ValueError, match="Items must be below 5, the embedding's rows; got 5"):
        transition_distillation(embedding, counts, torch.tensor([5]))
    with pytest.raises(ValueError, match="Every item is padding"):
        transition_distillation(embedding, counts, torch.tensor([-1]))
    with pytest.raises(ValueError, match="temperature must be above 0"):
        transition_distillation(embedding, counts, items, temperature=0.0)
    with pytest.raises(ValueError, match="span must be at least 1; got 0"):
        transition_counts(items[None], 5, span=0)
    with pytest.raises(ValueError, match="Items must be below 4; got 4"):
        transition_counts(items[None], 4)
