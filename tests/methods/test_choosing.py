"""What the methods that choose keys by content or by lot choose, on queries and keys made for it."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from regard.hf import Site
from regard.hf.meter import Record
from regard.masks import causal
from regard.methods.method import Method
from regard.methods.registry import create
from regard.methods.sparse.random_blocks import draw
from tests.oracle import Array


def site(N: int, heads: int, *, layer: int = 0, phase: str = "prefill", M: int | None = None) -> Site:
    """One call of a causal layer on a text without padding."""
    record = Record(layer, "layer", layer, "prefill", heads)
    return Site(layer, "layer", nn.Module(), layer, phase=phase, base=causal(), N=N, M=M or N, record=record)  # type: ignore[arg-type]


def seen(method: Method, q: Tensor, k: Tensor, here: Site | None = None) -> Array:
    """The pairs that the method looks at out of the past: boolean [B, H, N, M]."""
    (B, H, N, _), M = q.shape, k.shape[2]
    here = here or site(N, H, M=M)
    where = method.where(here, q, k)
    mask = causal() if where is None else causal() & where
    return mask.dense(N, M, batch=B, heads=H).expand(B, H, N, M).numpy()


def qk(B: int = 2, H: int = 4, G: int = 2, N: int = 96, D: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = [torch.randn(B, n, N, D, generator=generator, dtype=torch.float64) for n in (H, G)]
    return made[0], made[1]


def past(N: int) -> Array:
    return np.tril(np.ones((N, N), dtype=bool))


def blocks_seen(pairs: Array, block: int) -> Array:
    """Which blocks of keys each query sees anything of: [.., N, blocks]."""
    return np.stack([pairs[..., s : s + block].any(-1) for s in range(0, pairs.shape[-1], block)], -1)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_moba_takes_so_many_blocks_its_own_among_them(top_k: int) -> None:
    q, k = qk()
    found = seen(create("moba", block=16, top_k=top_k), q, k)
    blocks = blocks_seen(found, 16)
    own = np.arange(96) // 16
    assert (blocks.sum(-1) == np.minimum(top_k, own + 1)).all()
    assert blocks[..., np.arange(96), own].all()
    assert (found == (blocks.repeat(16, -1) & past(96))).all()  # whole blocks, but for what is ahead
    if top_k == 2:
        assert (found[:, 0] != found[:, 1]).any()  # heads of one group choose for themselves


def test_moba_chooses_without_what_is_ahead() -> None:
    q, k = qk()
    method = create("moba", block=16, top_k=2)
    other = k.clone()
    other[:, :, 50:] = 100 * torch.randn(2, 2, 46, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before, after = seen(method, q, k), seen(method, q, other)
    assert (before[:, :, :50] == after[:, :, :50]).all()
    assert (before[:, :, 64:] != after[:, :, 64:]).any()


def test_moba_finds_the_block_that_was_planted() -> None:
    q, k = qk(N=128)
    k[:, :, 32:48] += 5 * q[:, :1, 120:121]
    found = seen(create("moba", block=16, top_k=2), q, k)[:, 0, 120]
    assert (np.nonzero(found[0])[0] == [*range(32, 48), *range(112, 121)]).all()


def test_oracle_top_k_keeps_more_than_any_other_choice_of_so_many() -> None:
    q, k = qk(N=64)
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k.repeat_interleave(2, 1)).numpy() * 8**-0.5
    weights = np.where(past(64), np.exp(scores), 0.0)
    weights /= weights.sum(-1, keepdims=True)
    best = seen(create("oracle_top_k", k=16), q, k)
    assert (best.sum(-1) == np.minimum(16, np.arange(64) + 1)).all()
    kept = (weights * best).sum(-1)
    for rule in ("sliding_window:window=16", "moba:block=8,top_k=2"):
        name, _, rest = rule.partition(":")
        other = seen(create(name, **{key: int(value) for key, value in (p.split("=") for p in rest.split(","))}), q, k)
        assert (kept >= (weights * other).sum(-1) - 1e-12).all()
    threshold = np.where(best, weights, np.inf).min(-1)
    assert (np.where(best | ~past(64), 0.0, weights).max(-1) <= threshold).all()


@pytest.mark.parametrize("cells", [64, 1 << 12, 1 << 22])
def test_oracle_top_k_is_the_same_however_many_scores_are_held(cells: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import regard.methods.sparse.oracle_top_k as module

    q, k = qk(N=64)
    expected = seen(create("oracle_top_k", k=9), q, k)
    assert hasattr(module, "_SCORES")
    monkeypatch.setattr(module, "_SCORES", cells)
    assert (seen(create("oracle_top_k", k=9), q, k) == expected).all()


@pytest.mark.parametrize("keep", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_random_blocks_keep_their_share(keep: float) -> None:
    found = draw(20, 3, keep, 0, 0)[0].numpy()
    assert (found == found & past(20)).all()
    assert found[:, np.arange(20), np.arange(20)].all()
    for row in range(20):
        assert (found[:, row].sum(-1) == 1 + math.ceil(keep * row)).all()


def test_random_rows_do_not_depend_on_the_length() -> None:
    whole = draw(40, 4, 0.25, 7, 3)
    for count in (1, 2, 17, 39):
        assert torch.equal(draw(count, 4, 0.25, 7, 3)[0], whole[0, :, :count, :count])
    assert torch.equal(draw(40, 2, 0.25, 7, 3), whole[:, :2])  # nor on the number of heads
    q, k = qk(N=96)
    method = create("random_blocks", keep=0.25, block=8)
    full = seen(method, q, k)
    step = method.where(site(1, 4, phase="decode", M=90), q[:, :, 89:90], k[:, :, :90])
    assert step is not None
    assert (step.dense(1, 90, batch=2, heads=4)[0, :, 0].numpy() & past(96)[89, :90] == full[0, :, 89, :90]).all()


def test_random_draws_differ_by_seed_layer_and_head() -> None:
    drawn = [draw(24, 4, 0.25, seed, layer)[0, head] for seed in (0, 1) for layer in (0, 1) for head in range(4)]
    for number, one in enumerate(drawn):
        assert not any(torch.equal(one, other) for other in drawn[:number])
    assert torch.equal(draw(24, 4, 0.25, 1, 1), draw(24, 4, 0.25, 1, 1))


def test_random_draws_are_even() -> None:
    """Each of 32 earlier blocks is kept by a quarter of many draws, to within five standard deviations."""
    draws = torch.stack([draw(33, 8, 0.25, seed, layer)[0, :, 32, :32] for seed in range(20) for layer in range(5)])
    share = draws.double().mean((0, 1))
    assert float((share - 0.25).abs().max()) < 5 * math.sqrt(0.25 * 0.75 / 800)


def clustered(N: int = 256, D: int = 16, block: int = 16, H: int = 2) -> tuple[Tensor, Tensor]:
    """Queries and keys whose blocks each point one way, so that the filter by likeness lets all of them through."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(2, 1, H, N // block, 1, D, generator=generator, dtype=torch.float64)
    noise = torch.randn(2, 1, H, N // block, block, D, generator=generator, dtype=torch.float64)
    q, k = (3 * centres + 0.1 * noise).flatten(3, 4)
    return q, k


SIZES = {"q_block": 16, "k_block": 16}


def test_spargeattn_is_sparser_the_lower_tau_is() -> None:
    q, k = clustered()
    found = [seen(create("spargeattn", tau=tau, theta=0.0, **SIZES), q, k) for tau in (0.1, 0.5, 0.9, 0.999, 1.0)]
    shares = [float(pairs.sum() / past(256).sum() / 2) for pairs in found]
    assert shares == sorted(shares)
    assert shares[0] < 0.3
    assert shares[0] < shares[2] < shares[4] == 1.0
    for less, more in itertools.pairwise(found):
        assert (less <= more).all()
    assert (seen(create("spargeattn", tau=0.1, theta=1.0, **SIZES), q, k) == past(256)).all()


def test_spargeattn_takes_the_fewest_blocks_that_reach_tau() -> None:
    q, k = clustered()
    method = create("spargeattn", tau=0.7, theta=0.0, sink=False, **SIZES)
    found = seen(method, q, k)
    pooled_q, pooled_k = (x.unflatten(2, (16, 16)).mean(3) for x in (q, k))
    scores = torch.einsum("bhid,bhjd->bhij", pooled_q, pooled_k)[0].numpy() * 16**-0.5
    for h, row in np.ndindex(2, 16):
        weights = np.exp(scores[h, row, : row + 1] - scores[h, row, : row + 1].max())
        weights /= weights.sum()
        order = np.argsort(-weights)
        fewest = 1 + int((np.cumsum(weights[order]) < 0.7).sum())
        expected = {*order[:fewest].tolist(), row}
        assert set(np.nonzero(blocks_seen(found[0, h, row * 16 + 15], 16))[0].tolist()) == expected


@pytest.mark.parametrize("phase_length", [150, 129, 128, 17])
@pytest.mark.parametrize("sizes", [(16, 8), (8, 16), (3, 2), (2, 1), (1, 1), (128, 64), (7, 64)])
def test_spargeattn_leaves_no_query_without_keys(sizes: tuple[int, int], phase_length: int) -> None:
    q, k = qk(B=1, N=phase_length)
    for theta in (-1.0, 0.1):
        method = create("spargeattn", tau=1e-6, theta=theta, sink=False, q_block=sizes[0], k_block=sizes[1])
        found = seen(method, q, k)
        assert found.any(-1).all()
        assert (found == found & past(phase_length)).all()


def test_spargeattn_without_a_sink_may_skip_the_first_block() -> None:
    q, k = clustered()
    sink, none = (seen(create("spargeattn", tau=0.1, theta=0.0, sink=on, **SIZES), q, k) for on in (True, False))
    assert blocks_seen(sink, 16)[..., 0].all()
    assert not blocks_seen(none, 16)[..., 0].all()
    assert (none <= sink).all()


def test_spargeattn_never_skips_what_its_mean_does_not_tell() -> None:
    """A key that every query wants hides in a block of others: the mean loses it, the filter by likeness keeps it."""
    q, k = clustered(H=1)
    q += 6.0  # all queries share a direction
    k[:, :, 64:80] = -3.0  # and the keys beside the planted one point away from it
    k[:, :, 70] = 9.0
    weights = torch.softmax((q @ k.transpose(-1, -2))[0, 0, 255] * 16**-0.5, -1)
    assert float(weights[70]) > 0.99  # it is what the last query looks at
    unprotected = seen(create("spargeattn", tau=0.5, theta=-1.0, sink=False, **SIZES), q, k)
    protected = seen(create("spargeattn", tau=0.5, theta=0.9, sink=False, **SIZES), q, k)
    assert not unprotected[0, 0, 240:, 70].any()
    assert protected[0, 0, 70:, 70].all()
    assert protected.sum() < past(256).sum()  # and others are still skipped


def test_spargeattn_computes_whole_rows_for_queries_that_differ() -> None:
    q, k = clustered()
    generator = torch.Generator().manual_seed(1)
    q[:, :, 160:176] = torch.randn(1, 2, 16, 16, dtype=torch.float64, generator=generator)
    found = seen(create("spargeattn", tau=0.1, theta=0.4, sink=False, **SIZES), q, k)
    assert (found[:, :, 160:176] == past(256)[160:176]).all()
    assert not (found[:, :, 176:] == past(256)[176:]).all()


def test_spargeattn_does_not_move_with_all_keys() -> None:
    """One vector added to every key changes no weight, so it must change no choice."""
    q, k = clustered()
    # Keys that point in all directions would seem alike beside a vector that all of them share.
    k[:, :, 96:112] = torch.randn(
        k[:, :, 96:112].shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    )
    method = create("spargeattn", tau=0.6, theta=0.3, **SIZES)
    expected = seen(method, q, k)
    assert (seen(method, q, k + 40 * torch.ones(16, dtype=torch.float64)) == expected).all()
    assert expected.sum() < past(256).sum() * 2


def test_spargeattn_decodes_densely() -> None:
    q, k = clustered()
    assert create("spargeattn", tau=0.1).where(site(1, 2, phase="decode", M=256), q[:, :, -1:], k) is None


@pytest.mark.parametrize("name", ["moba", "oracle_top_k", "spargeattn"])
def test_choosing_is_counted(name: str) -> None:
    q, k = qk(B=2, H=4, G=2, N=96, D=8)
    here = site(96, 4)
    settings = {"moba": {"block": 16, "top_k": 2}, "oracle_top_k": {"k": 9}, "spargeattn": SIZES}[name]
    create(name, **settings).where(here, q, k)
    assert here.record is not None
    counted = here.record.selection_flops
    # A product of D numbers is 2 D operations.
    least = {
        "moba": 2 * 4 * 96 * 6 * 2 * 8,  # every query with every block's mean
        "oracle_top_k": 2 * 4 * 96 * 96 * 2 * 8,  # every query with every key
        "spargeattn": 2 * 4 * 6 * 6 * 2 * 8,  # every block of queries with every block of keys
    }[name]
    assert least <= counted <= (least if name != "spargeattn" else 2 * (4 + 2 * 2) * 96 * 8 * 2 + least)
