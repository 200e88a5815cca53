"""A mask asked in blocks, in any order, by scalars under vmap, and as FlexAttention asks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.func import vmap

from regard import masks
from regard.masks import Mask, causal, sinks, window
from tests.masks.formulas import B, H, dense, expressions, positions


def vmapped(mask: Mask, i: torch.Tensor, j: torch.Tensor) -> torch.Tensor:
    over = mask.at
    for dims in [(None, None, None, 0), (None, None, 0, None), (None, 0, None, None), (0, None, None, None)]:
        over = vmap(over, in_dims=dims)
    return over(torch.arange(B), torch.arange(H), i, j)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_blocks_and_scalars_answer_alike(data):
    far = 20
    mask, formula = data.draw(expressions(far), label="mask")
    i = torch.tensor(data.draw(st.lists(st.integers(0, far), min_size=1, max_size=12), label="i"))
    j = torch.tensor(data.draw(st.lists(st.integers(0, far), min_size=1, max_size=12), label="j"))
    seen = dense(formula, len(i), len(j), i, j)
    assert np.array_equal(vmapped(mask, i, j).numpy(), seen)
    b, h = torch.arange(B).view(-1, 1, 1, 1), torch.arange(H).view(1, -1, 1, 1)
    block = mask.at(b, h, i.view(1, 1, -1, 1), j.view(1, 1, 1, -1))
    assert block.dtype == torch.bool
    assert block.shape[-2:] == (len(i), len(j))
    assert np.array_equal(np.broadcast_to(block.numpy(), seen.shape), seen)
    one = mask.at(b, h, i.view(1, 1, -1, 1), j[:1].expand(1, 1, len(i), 1))  # pairs, not a block
    assert np.array_equal(np.broadcast_to(one.numpy(), (B, H, len(i), 1)), seen[..., :1])


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_calling_a_mask_takes_batch_and_head_from_the_axes(data):
    far = 16
    mask, formula = data.draw(expressions(far), label="mask")
    N, M = 5, 7
    i = torch.randint(0, far, (B, H, N, 1), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    j = torch.randint(0, far, (1, 1, 1, M), generator=torch.Generator().manual_seed(data.draw(st.integers(0, 99))))
    seen = dense(formula, N, M, i[..., 0], j[0, 0, 0])
    assert np.array_equal(np.broadcast_to(mask(i, j).numpy(), seen.shape), seen)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_block_mask_lists_the_tiles(data):
    far = 20
    mask, formula = data.draw(expressions(far), label="mask")
    N, M = data.draw(st.integers(1, far)), data.draw(st.integers(1, far))
    size = data.draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    q, k = data.draw(positions(N, far), label="q"), data.draw(positions(M, far), label="k")
    plan = mask.tiles(N, M, size, batch=B, heads=H, q_positions=q, k_positions=k)
    block_mask = plan.block_mask()
    assert block_mask.seq_lengths == (N, M)
    assert size == block_mask.BLOCK_SIZE
    for held, indices, kind in (
        (block_mask.kv_num_blocks, block_mask.kv_indices, masks.PARTIAL),
        (block_mask.full_kv_num_blocks, block_mask.full_kv_indices, masks.FULL),
    ):
        assert held is not None
        assert indices is not None
        for place in np.ndindex(*held.shape):
            expected = (plan.status[place] == kind).nonzero().flatten().tolist()
            assert indices[place][: held[place]].tolist() == expected
    # Its mask_mod works on places, not positions.
    b, h = torch.arange(B).view(-1, 1, 1, 1), torch.arange(H).view(1, -1, 1, 1)
    found = block_mask.mask_mod(b, h, torch.arange(N).view(1, 1, -1, 1), torch.arange(M).view(1, 1, 1, -1))
    seen = dense(formula, N, M, q, k)
    assert np.array_equal(np.broadcast_to(found.numpy(), seen.shape), seen)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_takes_plans():
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    generator = torch.Generator().manual_seed(0)
    N, M = 40, 56
    q, k, v = (torch.randn(1, H, n, 8, generator=generator, dtype=torch.float64) for n in (N, M, M))
    for mask in (
        causal() & (window(9) | sinks(3)),
        causal() & masks.documents(torch.arange(M) // 11),
        masks.per_head([causal(), masks.power(2, 1, 1), masks.neighbourhood(M, 7)]),
        masks.keys(torch.randint(0, M, (1, H, M, 5), generator=generator)),
    ):
        block_mask = mask.tiles(N, M, 16).block_mask()
        seen = mask.dense(N, M)
        weights = (q @ k.mT / 8**0.5).masked_fill(~seen, -torch.inf).softmax(-1)
        torch.testing.assert_close(flex_attention(q, k, v, block_mask=block_mask), weights @ v, rtol=1e-12, atol=1e-12)
        theirs = create_block_mask(block_mask.mask_mod, 1, H, N, M, device="cpu", BLOCK_SIZE=16)
        assert torch.equal(block_mask.to_dense().expand(1, H, -1, -1), theirs.to_dense())


def test_importing_masks_does_not_import_flex_attention():
    import subprocess
    import sys

    code = "import sys, regard.masks; sys.exit('torch.nn.attention.flex_attention' in sys.modules and 3)"
    with_torch = "import sys, torch; sys.exit('torch.nn.attention.flex_attention' in sys.modules and 3)"
    found, plain = (subprocess.run([sys.executable, "-c", text], check=False).returncode for text in (code, with_torch))
    assert found == plain
