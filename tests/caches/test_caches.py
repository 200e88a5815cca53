"""Caches against lists that are kept by hand, row by row."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.caches import CacheLayer, Dense, Kept, Window
from regard.errors import RegardError

B, G, D, E, T = 3, 2, 4, 3, 40
PADDING = (0, 4, 23)  # before each row's first real token; the last row is padding for most of the text
SIZES = [(1, 0), (1, 3), (4, 0), (5, 2), (7, 12), (100, 2)]
CHUNKS = [[40], [1] * 40, [9, 1, 1, 1, 6, 1, 11, 1, 1, 8], [2, 1, 1, 1, 1, 1, 1, 1, 1, 1, 29]]


def text(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    real = torch.arange(T)[None] >= torch.tensor(PADDING)[:, None]
    real[0, 17] = False  # a hole
    keys = torch.randn(B, G, T, D, generator=generator, dtype=torch.float64)
    return keys, torch.randn(B, G, T, E, generator=generator, dtype=torch.float64), real


def held(kept: Kept, row: int) -> dict[int, tuple[list[float], list[float]]]:
    """What a row is given, by position; a position must not come twice."""
    M = kept.keys.shape[2]
    places = range(M) if kept.k_positions is None else kept.k_positions.expand(B, M)[row].tolist()
    found = [
        (place, (kept.keys[row, :, slot].flatten().tolist(), kept.values[row, :, slot].flatten().tolist()))
        for slot, place in enumerate(places)
        if place >= 0
    ]
    assert len(found) == len(dict(found))
    return dict(found)


def by_hand(row: int, tokens: list[int], keys: Tensor, values: Tensor, lead: int):
    return {t - lead: (keys[row, :, t].flatten().tolist(), values[row, :, t].flatten().tolist()) for t in tokens}


def keep(tokens: list[int], size: int, sinks: int, seen: int, lead: int) -> list[int]:
    return [t for t in tokens if t >= seen - size or t - lead < sinks]


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("chunks", CHUNKS, ids=["whole", "single", "mixed", "late"])
@pytest.mark.parametrize(("size", "sinks"), [*SIZES, (None, 0)])
def test_what_is_kept(size: int | None, sinks: int, chunks: list[int], padded: bool) -> None:
    keys, values, real = text(0)
    if not padded:
        real = torch.ones_like(real)
    cache: CacheLayer = Dense() if size is None else Window(size, sinks)
    lists: list[list[int]] = [[] for _ in range(B)]
    start = 0
    for n in chunks:
        stop = start + n
        given = real[:, start:stop] if padded else None
        kept = cache.update(keys[:, :, start:stop], values[:, :, start:stop], given)
        assert cache.seen == stop
        for row in range(B):
            lead = next((t for t in range(T) if real[row, t]), 0)
            lists[row] += [t for t in range(start, stop) if real[row, t]]
            needed = lists[row]
            if size is not None and n == 1:
                needed = keep(needed, size, sinks, stop, lead)
            assert held(kept, row).items() >= by_hand(row, needed, keys, values, lead).items()
            assert held(kept, row).items() <= by_hand(row, lists[row], keys, values, lead).items()
            if size is not None:
                lists[row] = keep(lists[row], size, sinks, stop, lead)
            if kept.q_positions is not None:
                expected = [t - lead if real[row, t] else -1 for t in range(start, stop)]
                assert kept.q_positions.expand(B, n)[row].tolist() == expected
        start = stop


@pytest.mark.parametrize("padded", [False, True])
def test_memory_is_constant_once_the_window_is_full(padded: bool) -> None:
    keys, values, real = text(1)
    cache = Window(6, 2)
    wide = torch.cat([keys, values], -1)  # slices of a larger tensor, as a fused projection gives them
    sizes = []
    for t in range(T):
        cache.update(wide[:, :, t : t + 1, :D], wide[:, :, t : t + 1, D:], real[:, t : t + 1] if padded else None)
        sizes.append(cache.nbytes)
    slots = 8
    numbers = 8 * slots * (B if padded else 1)
    assert set(sizes[6:]) == {8 * B * G * slots * (D + E) + numbers}
    assert sizes[3] < sizes[6]
    whole = Window(6, 2)
    whole.update(wide[..., :D], wide[..., D:], real if padded else None)
    assert whole.nbytes == sizes[-1]


def test_dense_holds_no_larger_tensor_alive() -> None:
    keys, values, _ = text(1)
    wide = torch.cat([keys, values], -1)
    cache = Dense()
    cache.update(wide[:, :, :5, :D], wide[:, :, :5, D:])
    assert cache.nbytes == 8 * B * G * 5 * (D + E)
    cache.update(wide[:, :, 5:7, :D], wide[:, :, 5:7, D:])
    cache.crop(4)
    assert cache.nbytes == 8 * B * G * 4 * (D + E)
    assert cache.seen == 4


@pytest.mark.parametrize("make", [Dense, lambda: Window(5, 2), lambda: Window(100)], ids=["dense", "window", "wide"])
@pytest.mark.parametrize("padded", [False, True])
def test_select_follows_rows(make, padded: bool) -> None:
    keys, values, real = text(2)
    rows = torch.tensor([2, 0, 0, 1])
    one, other = make(), make()
    for start, stop in ((0, 12), (12, 25)):
        one.update(keys[:, :, start:stop], values[:, :, start:stop], real[:, start:stop] if padded else None)
        chosen = real[rows, start:stop] if padded else None
        other.update(keys[rows, :, start:stop], values[rows, :, start:stop], chosen)
    one.select(rows)
    for t in range(25, 34):
        given = real[rows, t : t + 1] if padded else None
        a = one.update(keys[rows, :, t : t + 1], values[rows, :, t : t + 1], given)
        b = other.update(keys[rows, :, t : t + 1], values[rows, :, t : t + 1], given)
        assert torch.equal(a.keys, b.keys)
        assert torch.equal(a.values, b.values)
        if b.k_positions is None:
            assert a.k_positions is None
        else:
            assert torch.equal(a.k_positions.expand(4, -1), b.k_positions.expand(4, -1))


def test_crop_is_exact_before_eviction_and_refused_after() -> None:
    keys, values, real = text(3)
    cache, fresh = Window(8, 2), Window(8, 2)
    cache.update(keys[:, :, :7], values[:, :, :7], real[:, :7])
    cache.crop(5)
    fresh.update(keys[:, :, :5], values[:, :, :5], real[:, :5])
    more = [c.update(keys[:, :, 20:22], values[:, :, 20:22], real[:, 20:22]) for c in (cache, fresh)]
    assert torch.equal(more[0].keys, more[1].keys)
    assert torch.equal(more[0].k_positions, more[1].k_positions)
    cache.update(keys[:, :, 22:26], values[:, :, 22:26])
    cache.crop(11)  # as many as were seen: nothing to do
    message = "This cache keeps 2 \\+ 8 tokens and has let others go: it can't be cut back from 11 tokens to 10"
    with pytest.raises(RegardError, match=message):
        cache.crop(10)


def test_reset_starts_again() -> None:
    keys, values, real = text(4)
    cache, fresh = Window(5, 2), Window(5, 2)
    cache.update(keys[:, :, :20], values[:, :, :20], real[:, :20])
    cache.reset()
    assert cache.seen == 0
    assert cache.nbytes == 0
    again = [c.update(keys[:, :, :9], values[:, :, :9], real[:, :9]) for c in (cache, fresh)]
    assert torch.equal(again[0].k_positions, again[1].k_positions)


def test_gradients_reach_earlier_tokens() -> None:
    keys, values, _ = text(5)
    keys.requires_grad_()
    cache = Window(4, 1)
    total = torch.zeros((), dtype=torch.float64)
    for t in range(10):
        kept = cache.update(keys[:, :, t : t + 1], values[:, :, t : t + 1])
        total = total + (kept.keys**2).sum()
    total.backward()
    # Token t is given in every step while it is kept: for ever as a sink, else in 4 steps or until the text ends.
    times = torch.tensor([10.0, *(min(4, 10 - t) for t in range(1, 10))], dtype=torch.float64)
    expected = 2 * keys.detach() * torch.cat([times, torch.zeros(T - 10, dtype=torch.float64)])[:, None]
    assert torch.allclose(keys.grad, expected, rtol=1e-12, atol=0)


def test_a_step_outside_inference_mode_after_one_inside() -> None:
    keys, values, _ = text(6)
    cache = Window(3)
    with torch.inference_mode():
        cache.update(keys[:, :, :6], values[:, :, :6])
    kept = cache.update(keys[:, :, 6:7], values[:, :, 6:7])
    assert torch.equal(kept.k_positions, torch.tensor([[6, 4, 5]]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [((0,), "Window.size must be at least 1; got 0."), ((4, -1), "Window.sinks must be at least 0; got -1.")],
)
def test_wrong_settings(settings: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Window(*settings)
