"""Counting and letters are what their papers define, read off their sequences one token at a time."""

from __future__ import annotations

import pytest
import torch

from regard.bench.tasks import SILENT, Counting, Letters
from regard.bench.tasks.counting import INCREMENT, PASS, PRINT, SET
from regard.errors import RegardError


def test_a_print_tells_what_was_counted() -> None:
    ids, targets = Counting(passes=10, most=3).batch(torch.Generator().manual_seed(0), 60, 50)
    values = set()
    for row, asked in zip(ids.tolist(), targets.tolist(), strict=True):
        assert (row[0], row[-1]) == (SET, PRINT)
        value = 0
        for told, answer in zip(row, asked, strict=True):
            if told == SET:
                value = 0
            if told == INCREMENT:
                value += 1
            assert value <= 3
            assert answer == (4 + value if told == PRINT else SILENT)
            values.add(value)
        assert max(row) <= PRINT  # answers are not in the text
    assert values == {0, 1, 2, 3}


def test_instructions_come_by_weight_and_more_passes_are_more() -> None:
    one = Counting()
    ids, _ = one.batch(torch.Generator().manual_seed(0), 400, 64)
    inner = ids[:, 1:-1].flatten()
    share = torch.bincount(inner, minlength=4).double() / len(inner)
    assert share[SET] == pytest.approx(1 / 62, abs=0.005)
    assert share[PRINT] == pytest.approx(4 / 62, abs=0.01)
    assert share[INCREMENT] == pytest.approx(7 / 62, abs=0.015)  # a few are past the most
    (more,) = one.shifted().values()
    assert isinstance(more, Counting)
    assert more.passes == 200
    wide, _ = more.batch(torch.Generator().manual_seed(0), 400, 64)
    assert (wide == PASS).double().mean() > (ids == PASS).double().mean() + 0.1


def test_one_block_holds_both_letters_and_its_first_is_asked() -> None:
    one = Letters()
    ids, targets = one.batch(torch.Generator().manual_seed(0), 500, 33)
    first_asked = 0
    for row, asked in zip(ids.tolist(), targets.tolist(), strict=True):
        blocks = [row[6 * n : 6 * n + 5] for n in range(5)]
        assert all(row[6 * n + 5] == 16 for n in range(5))
        assert row[30] == 17
        a, b = row[31:]
        holding = [block for block in blocks if a in block and b in block]
        assert len(holding) == 1
        assert a != b
        assert asked == [SILENT] * 32 + [holding[0][0]]
        first_asked += holding[0][0] in (a, b)
        assert all(0 <= letter < 16 for block in blocks for letter in block)
    assert 0 < first_asked < 500


def test_wrong_settings_and_lengths() -> None:
    with pytest.raises(RegardError, match="counting.most must be at least 1; got 0"):
        Counting(most=0)
    with pytest.raises(RegardError, match="letters.block must be at least 2; got 1"):
        Letters(block=1)
    with pytest.raises(RegardError, match="takes whole blocks of 6 tokens and 3 more; got 34. Type --length 39"):
        Letters().fit(34)
    Letters().fit(39)
