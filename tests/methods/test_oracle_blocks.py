"""The bound for methods that choose blocks: the blocks that hold most of what a block of queries looks at."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.errors import RegardError
from regard.hf import Site
from regard.masks import causal
from regard.methods.registry import create
from tests.oracle import Array


def made(N: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(2, heads, N, 8, generator=generator, dtype=torch.float64) for heads in (4, 2))
    return 2 * q, k


def site(N: int, M: int) -> Site:
    phase = "prefill" if N > 1 else "decode"
    return Site(0, "layer", nn.Module(), 0, phase=phase, base=causal(), N=N, M=M)


def shares(q: Tensor, k: Tensor, block: int) -> Array:
    """The attention that each block of queries gives to each block of keys: [B, H, blocks, blocks], summed."""
    N, count = q.shape[2], -(-q.shape[2] // block)
    scores = np.einsum("bhnd,bhmd->bhnm", q.numpy(), k.repeat_interleave(2, 1).numpy()) / 8**0.5
    weights = np.where(np.tril(np.ones((N, N), dtype=bool)), np.exp(scores), 0.0)
    weights /= weights.sum(-1, keepdims=True)
    cut = [slice(n * block, (n + 1) * block) for n in range(count)]
    return np.stack([np.stack([weights[:, :, r, c].sum((2, 3)) for c in cut], -1) for r in cut], -2)


@pytest.mark.parametrize(("N", "block", "k"), [(64, 8, 8), (64, 8, 24), (90, 16, 48), (33, 32, 32)])
def test_each_block_keeps_its_own_and_the_heaviest(N: int, block: int, k: int) -> None:
    q, keys = made(N)
    where = create("oracle_top_k", k=k, block=block).where(site(N, N), q, keys)
    assert where is not None
    found = (where & causal()).dense(N, batch=2, heads=4).numpy()
    mass = shares(q, keys, block)
    past = np.tril(np.ones((N, N), dtype=bool))
    expected = np.zeros_like(found)
    for b, h, row in np.ndindex(*mass.shape[:3]):
        earlier = sorted(range(row), key=lambda c: -mass[b, h, row, c])[: k // block - 1]
        for c in (row, *earlier):
            expected[b, h, row * block : (row + 1) * block, c * block : (c + 1) * block] = True
    assert (found == (expected & past)).all()
    assert found.sum() < 8 * past.sum()  # something was left out


def test_one_query_keeps_its_own_heaviest_blocks() -> None:
    """While decoding the block of queries is the one query that is there."""
    q, keys = made(61)
    method = create("oracle_top_k", k=24, block=8)
    where = method.where(site(1, 61), q[:, :, -1:], keys)
    assert where is not None
    found = where.dense(1, 61, batch=2, heads=4)[:, :, 0].numpy()
    scores = np.einsum("bhd,bhmd->bhm", q[:, :, -1].numpy(), keys.repeat_interleave(2, 1).numpy()) / 8**0.5
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    for b, h in np.ndindex(2, 4):
        mass = [weights[b, h, c : c + 8].sum() for c in range(0, 61, 8)]
        chosen = {7, *sorted(range(7), key=lambda c: -mass[c])[:2]}
        assert {int(j) // 8 for j in np.nonzero(found[b, h])[0]} == chosen


def test_it_is_dense_where_every_key_fits() -> None:
    q, keys = made(40)
    assert create("oracle_top_k", k=40, block=8).where(site(40, 40), q, keys) is None
    with pytest.raises(RegardError, match=r"OracleTopK\.k must be a multiple of block; got k=20 and block=8\."):
        create("oracle_top_k", k=20, block=8)
