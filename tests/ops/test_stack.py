"""Blocks of one shape at equal steps are computed as one batch, and equal the formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.masks import Mask, blocks, causal, dilated, documents, predicate, sinks, window
from regard.masks.plan import cached_tiles
from regard.ops import State, attend
from regard.ops.runs import blocks as work
from regard.ops.stack import LEAST

N = 1000
CASES = {
    "window": causal() & window(100),
    "window and sinks": causal() & (window(100) | sinks(3)),
    "both sides": window(80),
    "wide window and sinks": causal() & (window(300) | sinks(64)),
}


def inputs(B: int = 2, H: int = 4, G: int = 2, D: int = 8, E: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((B, N, H, D), (B, N, G, D), (B, N, G, E))
    # Laid out as projections leave them: heads beside each other within a token.
    q, k, v = (torch.randn(shape, generator=generator, dtype=torch.float64).transpose(1, 2) for shape in shapes)
    return q, k, v


def by_formula(q: Tensor, k: Tensor, v: Tensor, where: Mask) -> tuple[Tensor, Tensor]:
    k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], dim=1) for t in (k, v))
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) / q.shape[-1] ** 0.5
    hidden = scores.masked_fill(~where.dense(q.shape[2], k.shape[2]), -torch.inf)
    return torch.einsum("bhnm,bhme->bhne", hidden.softmax(-1), v), hidden.logsumexp(-1)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("limit", [None, 20_000], ids=["whole", "in parts"])
def test_stacked_blocks_equal_the_formula(name: str, limit: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if limit is not None:
        monkeypatch.setattr("regard.ops.stack._SCORES", limit)
    where = CASES[name]
    plan = cached_tiles(where, N, N, (64, 64))
    assert max(block.run for block in work(plan, 0, 0, torch.float64, torch.device("cpu"))) >= LEAST
    q, k, v = inputs()
    out, lse = by_formula(q, k, v, where)
    torch.testing.assert_close(attend(q, k, v, where=where, engine="tiles"), out, rtol=0, atol=1e-12)
    state = attend(q, k, v, where=where, engine="tiles", state=True)
    assert isinstance(state, State)
    torch.testing.assert_close(state.out, out, rtol=0, atol=1e-12)
    torch.testing.assert_close(state.lse, lse, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "where",
    [
        causal() & documents(torch.arange(N) // 130) & window(400),
        causal() & dilated(300, 3),
        causal() & window(150) & blocks(torch.rand(16, 16, generator=torch.Generator().manual_seed(1)) > 0.3, (64, 64)),
        causal() & (window(300) | blocks(torch.eye(16).roll(-8, 1).bool(), (64, 64))),
        causal() & window(150) & ~predicate(lambda b, h, i, j: (i - j == 50) & (i % 128 < 64)),
    ],
    ids=["documents", "dilated", "chosen", "keys apart move", "masks alternate"],
)
def test_blocks_that_differ_are_not_taken_for_one_another(where: Mask) -> None:
    q, k, v = inputs()
    out, _ = by_formula(q, k, v, where)
    found = attend(q, k, v, where=where, engine="tiles")
    torch.testing.assert_close(found, out.nan_to_num(), rtol=0, atol=1e-12)


def test_plain_causal_blocks_grow_and_are_no_run() -> None:
    plan = cached_tiles(causal(), N, N, (64, 64))
    assert {block.run for block in work(plan, 0, 0, torch.float64, torch.device("cpu"))} == {1}
