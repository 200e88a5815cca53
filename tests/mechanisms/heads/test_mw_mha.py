"""Multi-window attention: blocks, biases, and the choice of windows."""

from __future__ import annotations

import pytest
import torch

import regard
from regard.edits import Bias
from regard.errors import ShapeError
from regard.mechanisms import Call
from regard.mechanisms.heads import MultiWindowAttention
from regard.mechanisms.heads.mw_mha import divisor_windows
from regard.testing import operations


def _tokens(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _mixer(*windows: int, **settings: int) -> MultiWindowAttention:
    torch.manual_seed(0)
    mixer = MultiWindowAttention(len(windows), windows=windows, **settings).double()
    if mixer.table is not None:
        torch.nn.init.normal_(mixer.table)
    return mixer


def _call(q: torch.Tensor, causal: bool = False, **settings: object) -> Call:
    tokens = q.transpose(1, 2).flatten(2)
    return Call(tokens=tokens, memory=tokens, causal=causal, **settings)  # type: ignore[arg-type]


ROWS = {
    "plain": {},
    "padded": {"q_positions": torch.tensor([[-1, -1, *range(11), -1], [0, -1, *range(1, 12), -1]])},
    "packed": {"documents": torch.tensor([[0] * 5 + [1] * 8 + [2], [3] * 14])},
    "packed and padded": {
        "documents": torch.tensor([[0] * 5 + [1] * 8 + [2], [3] * 7 + [4] * 7]),
        "q_positions": torch.tensor([[-1, *range(1, 13), -1], [0, 1, 2, -1, 4, 5, -1, 7, 8, 9, 10, 11, 12, 13]]),
    },
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("groups", "settings"), [(4, {}), (2, {"shift": True}), (2, {"cls": 2}), (4, {"cls": 1, "shift": True})]
)
def test_blocks_by_sending_equal_blocks_by_mask(rows: str, causal: bool, groups: int, settings: dict[str, int]) -> None:
    mixer, q = _mixer(3, 0, 4, 100, **settings), _tokens(2, 4, 14, 8)
    k, v = _tokens(2, groups, 14, 8) * 0.7, _tokens(2, groups, 14, 5)
    given = dict(ROWS[rows])
    if "q_positions" in given:
        given["k_positions"] = given["q_positions"]
    nothing = Bias(torch.zeros(1, dtype=torch.float64))  # with an edit everything goes by mask
    want = mixer(q, k, v, _call(q, causal, **given, edits=(nothing,)))
    real = given.get("q_positions", torch.zeros(1, 14)) >= 0
    got = mixer(q, k, v, _call(q, causal, **given))
    keep = real.expand(2, 14)
    torch.testing.assert_close(got.transpose(1, 2)[keep], want.transpose(1, 2)[keep])


def test_positions_that_are_no_counts_are_places_all_the_same() -> None:
    mixer, x, places = _mixer(4, 6), _tokens(1, 2, 8, 8), torch.tensor([[0, 3, 4, 5, 6, 11, 12, 13]])
    out = mixer(x, x, x, _call(x, q_positions=places, k_positions=places))
    whole = torch.zeros(1, 2, 14, 8, dtype=torch.float64)
    whole[:, :, places[0]] = x
    there = torch.full((1, 14), -1).scatter(1, places, places)
    want = mixer(whole, whole, whole, _call(whole, q_positions=there, k_positions=there))
    torch.testing.assert_close(out, want[:, :, places[0]])


def test_tokens_beside_the_blocks_see_all_and_all_see_them() -> None:
    mixer, x = _mixer(4, 4, cls=2), _tokens(1, 2, 10, 8).requires_grad_()
    out = mixer(x, x, x, _call(x))
    for i in range(10):
        (slope,) = torch.autograd.grad(out[0, 0, i].sum(), x, retain_graph=True)
        seen = [j for j in range(10) if min(i, j) < 2 or (i - 2) // 4 == (j - 2) // 4]
        assert slope[0, 0].abs().sum(-1).nonzero()[:, 0].tolist() == seen


def test_shifted_blocks_begin_half_a_window_later() -> None:
    mixer, x = _mixer(5, shift=True), _tokens(1, 1, 10, 8).requires_grad_()
    out = mixer(x, x, x, _call(x))
    for i in range(10):
        (slope,) = torch.autograd.grad(out[0, 0, i].sum(), x, retain_graph=True)
        seen = slope[0, 0].abs().sum(-1).nonzero()[:, 0].tolist()
        assert seen == [[0, 1], [2, 3, 4, 5, 6], [7, 8, 9]][(i >= 2) + (i >= 7)]


def test_parameters_are_those_of_plain_attention_and_the_biases() -> None:
    def count(mixer: str, **settings: object) -> int:
        return sum(p.numel() for p in regard.create(mixer, dim=32, heads=4, **settings).parameters())

    assert count("mw_mha", windows=(2, 5, 12, 0)) == count("softmax") + 3 + 9 + 23


def test_a_head_is_moved_by_its_own_block_alone() -> None:
    mixer, x = _mixer(2, 5, 10, 0), _tokens(1, 4, 10, 8).requires_grad_()
    out = mixer(x, x, x, _call(x))
    for h, w in enumerate((2, 5, 10, 10)):
        for i in range(10):
            (slope,) = torch.autograd.grad(out[0, h, i].sum(), x, retain_graph=True)
            moved = slope[0].abs().sum(-1)
            assert moved[h].nonzero()[:, 0].tolist() == [j for j in range(10) if j // w == i // w]
            assert not moved[[n for n in range(4) if n != h]].any()


def test_a_window_of_one_reads_the_value() -> None:
    x = _tokens(2, 2, 7, 8)
    torch.testing.assert_close(_mixer(1, 1)(x, x * 2, x * 3, _call(x)), x * 3)


def test_there_is_a_bias_for_every_distance_and_it_moves_its_own_head() -> None:
    mixer, x = _mixer(2, 0, 5, 3), _tokens(1, 4, 10, 8)
    assert mixer.table is not None
    assert mixer.table.numel() == 3 + 9 + 5
    before = mixer(x, x, x, _call(x)).detach()
    mixer.table.data[3:12] += torch.arange(9.0)
    off = (mixer(x, x, x, _call(x)).detach() - before).abs().amax((0, 2, 3))
    assert [bool(o > 1e-9) for o in off] == [False, False, True, False]


@pytest.mark.parametrize(("windows", "low", "high"), [((2, 4, 8, 16), 0.9, 1.1), ((2, 4, 8, 0), 1.8, 2.1)])
def test_work_follows_the_windows(windows: tuple[int, ...], low: float, high: float) -> None:
    mixer, counts = _mixer(*windows).float().requires_grad_(False), []
    for N in (512, 1024):
        q = torch.randn(1, 4, N, 8)
        counts.append(operations(lambda q=q: mixer(q, q, q, _call(q))))
    assert 2**low <= counts[1] / counts[0] <= 2**high
    assert counts[1] == 1024 * sum(w or 1024 for w in windows) * 4 * 8


@pytest.mark.parametrize("rows", ["padded", "packed"])
def test_work_follows_the_windows_beside_padding_and_documents_too(rows: str) -> None:
    mixer, counts = _mixer(2, 4, 8, 16).float().requires_grad_(False), []
    for N in (512, 1024):
        q, places = torch.randn(1, 4, N, 8), torch.arange(N)[None] - 3
        padded = {"q_positions": places.clamp(min=-1), "k_positions": places.clamp(min=-1)}
        given = padded if rows == "padded" else {"documents": torch.arange(N)[None] // 100}
        counts.append(operations(lambda q=q, given=given: mixer(q, q, q, _call(q, **given))))
    assert 0 < counts[1] <= 2.2 * counts[0]


def test_a_positions_edits_reach_local_heads() -> None:
    mixer, x = _mixer(4, 0), _tokens(1, 2, 8, 8)
    places, values = torch.arange(8)[None], torch.randn(1, 2, 8, 8, dtype=torch.float64)
    got = mixer(x, x, x, _call(x, edits=(Bias(values),)))
    scores = x @ x.transpose(2, 3) * 8**-0.5 + values
    scores[:, 0] += mixer.table[(places.T - places).clamp(-3, 3) + 3]  # type: ignore[index]
    scores[:, 0] = scores[:, 0].masked_fill(places // 4 != places.T // 4, -torch.inf)
    torch.testing.assert_close(got, scores.softmax(-1) @ x)


@pytest.mark.parametrize(
    ("N", "heads", "windows"),
    [
        (250, 8, [2, 5, 10, 25, 50, 125, 0, 0]),
        (12, 8, [2, 3, 4, 6, 0, 0, 0, 0]),
        (64, 4, [2, 32, 0, 0]),
        (64, 5, [2, 8, 32, 0, 0]),
        (7, 3, [0, 0, 0]),
        (250, 2, [0, 0]),
    ],
)
def test_windows_from_divisors(N: int, heads: int, windows: list[int]) -> None:
    assert divisor_windows(N, heads) == windows


def test_windows_by_default_double_and_leave_a_quarter_global() -> None:
    assert MultiWindowAttention(8).windows == (2, 4, 8, 16, 32, 64, 0, 0)
    assert MultiWindowAttention(1).windows == (0,)
    assert MultiWindowAttention(2, windows=6).windows == (6, 6)


def test_settings_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeError, match="must be 4 numbers, one for each head; got 3"):
        MultiWindowAttention(4, windows=(2, 4, 0))
    with pytest.raises(ValueError, match="at least 1, or 0 for a global head; got -2"):
        MultiWindowAttention(2, windows=(2, -2))
    with pytest.raises(ValueError, match="cls must be at least 0; got -1"):
        MultiWindowAttention(2, cls=-1)
    with pytest.raises(ValueError, match="divisor_windows needs N >= 1"):
        divisor_windows(0, 2)
    layer = regard.create("mw_mha", dim=32, heads=4, windows=(2, 5, 0, 0), pad=False)
    assert layer(torch.randn(1, 10, 32)).shape == (1, 10, 32)
    with pytest.raises(ValueError, match="12 keys are not a multiple of the window 5. Type pad=True"):
        layer(torch.randn(1, 12, 32))
    layer = regard.create("mw_mha", dim=32, heads=4, windows=(2, 5, 0, 0), pad=False, cls=1)
    assert layer(torch.randn(1, 11, 32)).shape == (1, 11, 32)
    with pytest.raises(ValueError, match="9 keys without the first 1 are not a multiple of the window 2"):
        layer(torch.randn(1, 10, 32))
