"""Chunks of any size, memory that grows with N and not with N squared, and work that follows the mask."""

from __future__ import annotations

import pytest
import torch

from regard import masks
from regard.edits import ALiBi
from regard.ops import RowBlocks, State, attend
from tests.ops.cases import SHAPES, Shape, bound, case, tensors
from tests.ops.ledger import peak_bytes, products, saved_bytes

CHUNKS = [(1, None), (1, 1), (7, None), (7, 6), (6, 7), (1000, 5), (13, 1000), (1000, 1000)]


@pytest.mark.parametrize("mask", ["none", "causal", "window_and_sinks", "blocks", "nothing"])
def test_every_chunking_gives_the_same_forward_and_backward(mask):
    c = case(mask, "narrow_values")

    def run(queries: int | None, keys: int | None) -> list[torch.Tensor]:
        leaves = [t.clone().requires_grad_() for t in (c.q, c.k, c.v)]
        state = attend(*leaves, where=c.where, edits=[ALiBi(heads=3)], state=True, engine=RowBlocks(queries, keys))
        assert isinstance(state, State)
        total = (state.out * c.v).sum() + state.lse.nan_to_num(neginf=0.0).sum()
        return [state.out, state.lse, *torch.autograd.grad(total, leaves)]

    whole = run(None, None)
    for queries, keys in CHUNKS:
        for found, want in zip(run(queries, keys), whole, strict=True):
            torch.testing.assert_close(found, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("field", ["queries", "keys"])
@pytest.mark.parametrize("size", [0, -3])
def test_chunk_sizes_below_one_are_refused(field, size):
    with pytest.raises(ValueError, match=rf"RowBlocks.{field} must be at least 1; got {size}\."):
        RowBlocks(**{field: size})


def _square(N: int, grad: bool = False) -> list[torch.Tensor]:
    return [t.requires_grad_(grad) for t in tensors(Shape(1, 2, 1, N, N, 8, 8), torch.float32)]


@pytest.mark.parametrize("engine", [RowBlocks(64), RowBlocks(64, 128), "tiles"], ids=["rows", "rows_by_keys", "tiles"])
@pytest.mark.parametrize("grad", [False, True], ids=["forward", "backward"])
def test_memory_grows_linearly(engine, grad):
    def run(N: int) -> int:
        leaves = _square(N, grad)

        def once() -> None:
            out = attend(*leaves, where=masks.causal(), engine=engine)
            if grad:
                out.sum().backward()

        once()  # the plan of a mask is no part of the work
        return peak_bytes(once)

    short, long = run(512), run(2048)
    # Four times the tokens: a linear cost grows by 4, N x N scores by 16.
    assert long < 5 * short
    assert long < 2048 * 2048 * 2 * 4 / 4


def test_the_reference_holds_all_scores():
    q, k, v = _square(1024)
    assert peak_bytes(lambda: attend(q, k, v, where=masks.causal(), engine="reference")) > 2 * 1024 * 1024 * 4


@pytest.mark.parametrize("engine", [RowBlocks(64), RowBlocks(64, 128), "tiles"], ids=["rows", "rows_by_keys", "tiles"])
def test_training_keeps_no_scores(engine):
    def kept(N: int) -> int:
        leaves = _square(N, True)
        return saved_bytes(lambda: attend(*leaves, where=masks.causal(), engine=engine))

    # q, k and v, the output and the log-sum-exps, some of them for every block: no more than a few times the inputs.
    inputs = sum(t.nbytes for t in _square(2048))
    assert kept(2048) < 3 * inputs
    assert saved_bytes(lambda: attend(*_square(2048, True), where=masks.causal(), engine="reference")) > 40 * inputs


@pytest.mark.parametrize("size", [64, 128])
def test_rows_multiply_only_the_chunks_a_causal_mask_needs(size):
    H, N, D = 2, 1024, 8
    q, k, v = _square(N)
    held = sum((start + size) * size for start in range(0, N, size))
    expected = H * held * (D + D)
    assert products(lambda: attend(q, k, v, where=masks.causal(), engine=RowBlocks(size))) == expected
    assert products(lambda: attend(q, k, v, where=masks.causal(), engine="reference")) == H * N * N * (D + D)


def test_tiles_multiply_only_visible_tiles():
    H, D = 2, 8
    where = masks.causal() & (masks.window(64) | masks.sinks(4))

    def work(N: int) -> float:
        q, k, v = _square(N)
        return products(lambda: attend(q, k, v, where=where, engine="tiles")) / (H * (D + D))

    # A block of 64 queries sees 127 keys through a window of 64, and 4 sinks, whose scores are laid over those of 4
    # keys more. Only near the start, where sinks and window touch, is it otherwise.
    assert work(2048) - work(1024) == 1024 * (127 + 4 + 4 / 2)
    assert work(1024) < 1024 * 160
    N = 1024
    q, k, v = _square(N)
    causal = products(lambda: attend(q, k, v, where=masks.causal(), engine="tiles")) / (H * (D + D))
    assert causal == sum(64 * (start + 64) for start in range(0, N, 64))


def counted(mask: masks.Mask) -> tuple[masks.Mask, list[torch.Tensor]]:
    """The same mask, noting how many pairs of each evaluated tile are visible."""
    shares: list[torch.Tensor] = []
    kind = type(mask)

    class Counted(kind):  # type: ignore[misc, valid-type]
        def at(self, b, h, i, j):
            seen = super().at(b, h, i, j)
            shares.append(seen.flatten(1).double().mean(1) if seen.dim() == 3 else seen.double().mean().view(1))
            return seen

    found = object.__new__(Counted)
    found.__dict__.update(mask.__dict__)
    return found, shares


def test_full_and_empty_tiles_never_call_the_mask():
    q, k, v = _square(1024)
    where, shares = counted(masks.causal())
    assert type(where) is not type(masks.causal())
    found = attend(q, k, v, where=where, engine="tiles")
    asked = torch.cat(shares)
    assert 0 < len(asked) <= 4
    assert ((asked > 0) & (asked < 1)).all()
    expected = attend(q, k, v, where=masks.causal(), engine="reference")
    torch.testing.assert_close(found, expected, rtol=0, atol=bound(q, k, v, torch.float32))


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_the_sparsity_of_causal_is_that_of_the_tiles_above_the_diagonal(count):
    plan = masks.causal().tiles(count * 128, size=128)
    assert plan.sparsity() == (count - 1) / (2 * count)


def test_documents_in_one_sequence_equal_the_documents_on_their_own():
    s = SHAPES["many_tiles"]
    s = Shape(1, s.H, s.G, s.M, s.M, s.D, s.E)
    q, k, v = tensors(s)
    lengths = [1, 60, 200, 139]
    ids = torch.repeat_interleave(torch.arange(4), torch.tensor(lengths))
    found = attend(q, k, v, where=masks.documents(ids) & masks.causal(), engine="tiles")
    start = 0
    for length in lengths:
        a, b, c = (t[:, :, start : start + length] for t in (q, k, v))
        alone = torch.nn.functional.scaled_dot_product_attention(a, b, c, is_causal=True, enable_gqa=True)
        torch.testing.assert_close(
            found[:, :, start : start + length], alone, rtol=0, atol=bound(q, k, v, torch.float64)
        )
        start += length
