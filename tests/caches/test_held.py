"""What decoding keeps, as a value."""

from __future__ import annotations

import pytest
import torch

from regard.caches import Held
from regard.errors import ShapeError


def parts(start: int, n: int, batch: int = 1) -> tuple[torch.Tensor, ...]:
    k = torch.arange(start, start + n, dtype=torch.float32)[None, None, :, None].expand(batch, 2, n, 3).clone()
    return k, k + 100


def places(start: int, n: int) -> torch.Tensor:
    return torch.arange(start, start + n)[None]


def test_appending_gives_another_value() -> None:
    first = Held().append(parts(0, 3), places(0, 3))
    second = first.append(parts(3, 2), places(3, 2))
    assert first.positions.tolist() == [[0, 1, 2]]
    assert second.positions.tolist() == [[0, 1, 2, 3, 4]]
    assert second.parts[1][0, 0, :, 0].tolist() == [100, 101, 102, 103, 104]
    assert second.nbytes == 2 * 2 * 5 * 3 * 4


@pytest.mark.parametrize("sinks", [0, 2])
def test_a_size_keeps_the_last_before_each_step(sinks: int) -> None:
    held = Held(size=3, sinks=sinks)
    for n in range(10):
        held = held.append(parts(n, 1), places(n, 1))
        kept = sorted({*range(min(sinks, n)), *range(max(0, n - 3), n + 1)})
        assert held.positions.tolist() == [kept]
        assert held.parts[0][0, 0, :, 0].tolist() == kept


def test_sinks_are_a_row_s_first_real_tokens() -> None:
    at = torch.tensor([[-1, -1, 0, 1, 2, 3], [0, 1, 2, 3, 4, 5]])
    held = Held(size=2, sinks=1).append(parts(0, 6, 2), at).append(parts(6, 1, 2), torch.tensor([[4], [6]]))
    assert held.positions.tolist() == [[-1, 0, 2, 3, 4], [0, 2, 4, 5, 6]]


def test_rows_are_reordered() -> None:
    at = torch.tensor([[0, 1], [-1, 0]])
    held = Held().append(tuple(torch.stack([p[0], p[0] * 2]) for p in parts(0, 2)), at).reorder(torch.tensor([1, 1, 0]))
    assert held.positions.tolist() == [[-1, 0], [-1, 0], [0, 1]]
    assert held.parts[0][:, 0, 1, 0].tolist() == [2, 2, 1]
    assert Held().reorder(torch.tensor([0])).positions is None


def test_wrong_sizes() -> None:
    with pytest.raises(ValueError, match="Held.size must be at least 1; got 0"):
        Held(size=0)
    with pytest.raises(ValueError, match="Held.sinks must be at least 0; got -1"):
        Held(sinks=-1)
    with pytest.raises(ShapeError, match="do not continue what is held"):
        Held().append(parts(0, 2), places(0, 2)).append(parts(2, 1, 2), places(2, 1))
