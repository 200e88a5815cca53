"""The recommender of next items: its branches, its loss, and what it leaves out."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from regard.backbones.recommender import MultiQueryRecommender
from regard.errors import ShapeError
from regard.mechanisms.heads.mqsa_ted import transition_distillation

ITEMS, IDS = 9, torch.tensor([[3, 1, 4, 2, 5], [0, 6, 8, 7, 3]])


def _model(**settings: float) -> MultiQueryRecommender:
    torch.manual_seed(0)
    model = MultiQueryRecommender(ITEMS, 8, length=7, **settings).double().eval()  # type: ignore[arg-type]
    for p in model.parameters():
        p.data += torch.randn_like(p) * 0.3
    return model


def _norm(x: torch.Tensor, norm: torch.nn.LayerNorm) -> torch.Tensor:
    off = x - x.mean()
    return off / (off.square().mean() + 1e-8).sqrt() * norm.weight + norm.bias


def _branch(
    model: MultiQueryRecommender,
    ids: list[int],
    blocks: torch.nn.ModuleList,
    norm: torch.nn.LayerNorm,
    L: int,
    heads: int,
) -> torch.Tensor:
    """One branch, an item and a head at a time."""
    x = [model.embedding[i] * 8**0.5 + model.positions[7 - len(ids) + n] for n, i in enumerate(ids)]
    D = 8 // heads
    for block in blocks:
        part, out = block.attention, []
        for t in range(len(x)):
            a = _norm(sum(x[max(0, t - L + 1) : t + 1]) / min(L, t + 1), part.norm)
            q, read = part.q(a), []
            for h in range(heads):
                own = slice(h * D, (h + 1) * D)
                scores = torch.stack([q[own] @ part.k(z)[own] / D**0.5 for z in x[: t + 1]]).softmax(0)
                read.append(sum(w * part.v(z)[own] for w, z in zip(scores, x[: t + 1], strict=True)))
            o = _norm(torch.cat(read) + a, block.norm)
            out.append(o + block.outer(block.inner(o).clamp(min=0)))
        x = out
    return torch.stack([_norm(z, norm) for z in x])


@pytest.mark.parametrize(("window", "heads", "blocks"), [(3, 1, 1), (2, 2, 2), (100, 8, 1)])
def test_both_branches_equal_one_item_at_a_time(window: int, heads: int, blocks: int) -> None:
    model = _model(window=window, heads=heads, blocks=blocks, alpha=0.3)
    short = _branch(model, IDS[0].tolist(), model.short, model.norm_short, 1, heads)
    long = _branch(model, IDS[0].tolist(), model.long, model.norm_long, window, heads)
    torch.testing.assert_close(model(IDS)[0], (0.3 * short + 0.7 * long) @ model.embedding.T)


def test_alpha_chooses_between_the_branches() -> None:
    one, both, other = (_model(alpha=a)(IDS) for a in (1.0, 0.5, 0.0))
    torch.testing.assert_close(both, (one + other) / 2)
    model = _model(alpha=1.0)
    short, _ = model.hidden(IDS)
    torch.testing.assert_close(model(IDS), short @ model.embedding.T)


@pytest.mark.parametrize("more", [1, 2])
def test_padding_in_front_changes_nothing(more: int) -> None:
    model = _model()
    torch.testing.assert_close(model(F.pad(IDS, (more, 0), value=-1))[:, more:], model(IDS))


def test_later_items_change_nothing_before() -> None:
    model, other = _model(), IDS.clone()
    other[:, 3:] = (other[:, 3:] + 1) % ITEMS
    torch.testing.assert_close(model(other)[:, :3], model(IDS)[:, :3])
    assert not torch.allclose(model(other)[:, 3:], model(IDS)[:, 3:])


def test_the_loss_is_of_the_next_items_of_the_transitions_and_of_the_squares() -> None:
    model, counts = _model(), torch.randint(0, 5, (ITEMS, ITEMS), generator=torch.Generator().manual_seed(1))
    told = model(IDS[:, :-1]).log_softmax(-1)
    want = -torch.stack([told[b, t, IDS[b, t + 1]] for b in range(2) for t in range(4)]).mean()
    torch.testing.assert_close(model.loss(IDS, decay=0.0), want)
    torch.testing.assert_close(model.loss(IDS, counts, distil=0.0, decay=0.0), want)
    taught = transition_distillation(model.embedding, counts, IDS[:, :-1], temperature=0.2)
    squares = sum((p**2).sum() for p in model.parameters())
    got = model.loss(IDS, counts, distil=0.5, temperature=0.2, decay=0.01)
    torch.testing.assert_close(got, want + 0.5 * taught + 0.01 * squares)


def test_rows_of_padding_are_left_out_of_the_loss() -> None:
    model, more = _model(), torch.cat([IDS, torch.full((3, 5), -1)])
    torch.testing.assert_close(model.loss(more), model.loss(IDS))
    with pytest.raises(ValueError, match="nothing to learn from"):
        model.loss(more[2:])


def test_what_is_recommended_is_new_and_best_first() -> None:
    model = _model()
    found = model.recommend(IDS, 4)
    for row, ids, scores in zip(found, IDS, model(IDS)[:, -1], strict=True):
        left = sorted(set(range(ITEMS)) - set(ids.tolist()), key=lambda item: -scores[item].item())
        assert row.tolist() == left[:4]


def test_dropout_takes_the_generator_and_rests_when_evaluating() -> None:
    model = _model().train()
    one, same, other = (model(IDS, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)
    assert torch.equal(model.eval()(IDS), model(IDS))


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="items must be at least 1; got 0"):
        MultiQueryRecommender(0, 8)
    with pytest.raises(ValueError, match="alpha from 0 to 1 and dropout from 0 to below 1; got 1.5 and 0.5"):
        _model(alpha=1.5)
    with pytest.raises(ValueError, match="window must be at least 1; got 0"):
        _model(window=0)
    with pytest.raises(ShapeError, match="not a multiple of heads=3"):
        _model(heads=3)
    model = _model()
    with pytest.raises(ValueError, match="Items must be below 9; got 9. Type items=10"):
        model(torch.tensor([[9]]))
    with pytest.raises(ShapeError, match=r"N <= 7; got torch.int64 \[1, 8\]"):
        model(torch.zeros(1, 8, dtype=torch.int64))
    with pytest.raises(ValueError, match="count must be from 1 to 9"):
        model.recommend(IDS, 10)
    with pytest.raises(ValueError, match="end in an item; put padding in front"):
        model.recommend(torch.tensor([[1, -1]]), 1)
