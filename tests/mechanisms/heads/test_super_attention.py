"""Super attention: maps of low rank, maps that are given, and steps that mix their own rows alone."""

from __future__ import annotations

import pytest
import torch

from regard.errors import ShapeError, Unsupported
from regard.layers import Attention, create
from regard.mechanisms.heads import SuperAttention
from regard.testing import operations

C, H, L = 24, 4, 16


def layer(**settings: object) -> Attention:
    torch.manual_seed(0)
    made = create("super_attention", dim=C, heads=H, **{"length": L, **settings}).double()
    assert isinstance(made, Attention)
    return made


def part(**settings: object) -> SuperAttention:
    made = layer(**settings).projection
    assert isinstance(made, SuperAttention)
    return made


def tokens(N: int = 9) -> torch.Tensor:
    return torch.randn(2, N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_parameters_of_a_low_rank():
    assert sum(p.numel() for p in layer(rank=3, bias=False).parameters()) == 2 * C * C + 2 * L * 3


@pytest.mark.parametrize("causal", [False, True])
def test_a_low_rank_is_the_whole_map_of_its_product(causal):
    low, whole = layer(rank=3, init="random"), layer()
    whole.load_state_dict(low.state_dict(), strict=False)
    assert isinstance(whole.projection, SuperAttention)
    product = low.projection.rows.detach() @ low.projection.columns.detach().T
    whole.projection.align(torch.eye(L, dtype=torch.float64) + product)
    assert product.abs().max() > 0.1
    torch.testing.assert_close(low(tokens(), causal=causal), whole(tokens(), causal=causal), rtol=0, atol=1e-12)


def test_a_low_rank_starts_as_the_identity_and_leaves_it():
    made, plain, x = layer(rank=2), layer(), tokens()
    plain.load_state_dict(made.state_dict(), strict=False)
    torch.testing.assert_close(made(x), plain(x), rtol=0, atol=0)
    (made(x) * x).sum().backward()
    assert made.projection.rows.grad.abs().max() > 1e-3


@pytest.mark.parametrize("rank", [None, 3])
def test_a_step_costs_as_many_operations_as_its_own_row_has(rank):
    """Twice the tokens cost a step twice as many, and not four times."""
    made, work = layer(rank=rank, length=256, init="random"), []
    for N in (64, 128):
        _, state = made.prefill(tokens(N))
        work.append(operations(lambda state=state: made.step(state, tokens(1))))
    assert 1.5 < work[1] / work[0] < 2.1


def test_steps_after_left_padding_count_places_from_the_first_real_token():
    made, x = layer(init="random"), tokens()[:1]
    want = made(x, causal=True)
    prompt = torch.cat([20 * tokens(3)[:1], x[:, :5]], 1)
    out, state = made.prefill(prompt, padding=torch.arange(8)[None] >= 3)
    torch.testing.assert_close(out[:, 3:], want[:, :5], rtol=0, atol=1e-12)
    for n in range(5, 9):
        out, state = made.step(state, x[:, n : n + 1])
        torch.testing.assert_close(out[:, 0], want[:, n], rtol=0, atol=1e-12)


def test_what_is_mixed_is_kept():
    made, x = layer(init="random"), tokens(6)
    _, state = made.prefill(x)
    weights = made.projection.alignment.detach()[:6, :6].tril()
    torch.testing.assert_close(state.inner.kept.parts[1][:, 0], weights @ x, rtol=0, atol=1e-12)


def test_a_map_that_is_given_is_for_the_first_places():
    made, given = part(), torch.arange(1.0, 17.0, dtype=torch.float64).view(4, 4)
    made.align(given)
    assert torch.equal(made.alignment[:4, :4], given)
    assert torch.equal(made.alignment[4:, 4:], torch.eye(12, dtype=torch.float64))
    made.align(given.tril(), causal=True)
    assert torch.equal(made.alignment[:4, :4], given.tril())


def test_maps_and_ranks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="needs a lower triangular map; got weights above the diagonal"):
        part().align(torch.ones(4, 4), causal=True)
    for shape in ((4, 5), (17, 17)):
        with pytest.raises(ShapeError, match=r"takes weights \[n, n\], n <= 16; got"):
            part().align(torch.zeros(shape))
    with pytest.raises(Unsupported, match="rank=2 has no whole map to set"):
        part(rank=2).align(torch.eye(4))
    with pytest.raises(ValueError, match="rank must be at least 1; got 0"):
        part(rank=0)
    made = layer()
    _, state = made.prefill(tokens(16))
    with pytest.raises(ValueError, match="no place for position 16"):
        made.step(state, tokens(1))
    with pytest.raises(ShapeError, match=r"takes memory \[B, M, 24\]|takes memory \[B, N, 24\]"):
        made(tokens(), tokens()[..., :20])
