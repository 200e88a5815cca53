"""Each task is what its paper defines, read off its sequences one token at a time."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.bench.tasks import MQAR, SILENT, TASKS, CharLM, FlipFlop, SelectiveCopy, Task, task
from regard.bench.tasks.flip_flop import IGNORE, READ, WRITE
from regard.bench.text import read
from regard.errors import RegardError


def drawn(one: Task, size: int, length: int, seed: int = 0, **more: bool) -> tuple[Tensor, Tensor]:
    return one.batch(torch.Generator().manual_seed(seed), size, length, **more)


@pytest.mark.parametrize("name", TASKS)
def test_a_batch_depends_on_its_generator_alone(name: str) -> None:
    one = task(name)
    ids, targets = drawn(one, 4, one.usual)
    again = drawn(one, 4, one.usual)
    assert torch.equal(ids, again[0])
    assert torch.equal(targets, again[1])
    assert not torch.equal(ids, drawn(one, 4, one.usual, seed=1)[0])
    assert ids.shape == targets.shape == (4, one.usual)
    assert ids.min() >= 0
    assert ids.max() < one.vocabulary
    asked = targets[targets != SILENT]
    assert len(asked)
    assert 0 <= asked.min() <= asked.max() < one.vocabulary
    assert (targets != SILENT).any(1).all()


@pytest.mark.parametrize("noise", [False, True])
def test_mqar_asks_each_key_once_for_its_value(noise: bool) -> None:
    ids, targets = drawn(MQAR(pairs=5, tokens=40, noise=noise), 50, 34)
    for row, asked in zip(ids.tolist(), targets.tolist(), strict=True):
        keys, values = row[0:10:2], row[1:10:2]
        assert len(set(keys)) == len(set(values)) == 5
        assert all(1 <= key < 20 for key in keys)
        assert all(20 <= value < 40 for value in values)
        places = [at for at, target in enumerate(asked) if target != SILENT]
        assert all(at >= 10 and at % 2 == 0 for at in places)
        assert sorted(row[at] for at in places) == sorted(keys)
        assert all(asked[at] == values[keys.index(row[at])] for at in places)
        rest = [row[at] for at in range(10, 34) if at not in places]
        assert any(rest) if noise else not any(rest)


def test_mqar_s_gaps_follow_the_power_law() -> None:
    """With one pair a gap's frequency is the law's; places without replacement have no such closed form."""
    _, targets = drawn(MQAR(pairs=1, tokens=8, power=0.5), 20000, 22)
    gaps = ((targets != SILENT).int().argmax(1) - 2) // 2
    seen = torch.bincount(gaps, minlength=10).double() / 20000
    law = torch.tensor([n**-0.5 for n in range(1, 11)], dtype=torch.float64)
    torch.testing.assert_close(seen, law / law.sum(), atol=0.015, rtol=0)
    even = ((drawn(MQAR(pairs=1, tokens=8, power=1.0), 20000, 22)[1] != SILENT).int().argmax(1) - 2) // 2
    torch.testing.assert_close(
        torch.bincount(even).double() / 20000, torch.full((10,), 0.1).double(), atol=0.015, rtol=0
    )


def test_mqar_fits_sequences_that_are_full_of_it() -> None:
    _, targets = drawn(MQAR(pairs=3, tokens=8), 10, 12)
    assert ((targets != SILENT).nonzero()[:, 1].view(10, 3) == torch.tensor([6, 8, 10])).all()


@pytest.mark.parametrize("ignore", [0.1, 0.8])
def test_flip_flop_reads_the_last_bit_written(ignore: float) -> None:
    ids, targets = drawn(FlipFlop(ignore=ignore), 200, 64)
    free: list[int] = []
    for row, asked in zip(ids.tolist(), targets.tolist(), strict=True):
        told, bits, memory = row[0::2], row[1::2], -1
        assert set(told) <= {WRITE, READ, IGNORE}
        assert set(bits) <= {0, 1}
        assert (told[0], told[-1]) == (WRITE, READ)
        for place, (instruction, bit) in enumerate(zip(told, bits, strict=True)):
            if instruction == WRITE:
                memory = bit
            if instruction == READ:
                assert bit == memory
            else:
                free.append(bit)
            assert asked[2 * place] == (memory if instruction == READ else SILENT)
            assert asked[2 * place + 1] == SILENT
    assert abs(sum(free) / len(free) - 0.5) < 0.03
    inner = ids[:, 2:-2:2]
    assert abs((inner == IGNORE).double().mean().item() - ignore) < 0.02
    assert abs((inner == READ).double().mean().item() - (1 - ignore) / 2) < 0.02


def test_flip_flop_is_tested_on_sparse_and_on_dense_sequences() -> None:
    assert {name: one.settings for name, one in FlipFlop().shifted().items()} == {
        "sparse": {"ignore": 0.98},
        "dense": {"ignore": 0.1},
    }


def test_selective_copy_asks_the_tokens_in_order() -> None:
    ids, targets = drawn(SelectiveCopy(copies=4, tokens=9), 200, 20)
    places = set()
    for row, asked in zip(ids.tolist(), targets.tolist(), strict=True):
        data = [token for token in row[:16] if token]
        assert len(data) == 4
        assert all(1 <= token <= 7 for token in data)
        assert row[16:] == [8] * 4
        assert asked == [SILENT] * 16 + data
        places |= {at for at in range(16) if row[at]}
    assert places == set(range(16))
    full, _ = drawn(SelectiveCopy(copies=4, tokens=9), 3, 8)
    assert (full[:, :4] > 0).all()


def test_char_lm_asks_every_next_character_and_holds_out_the_end() -> None:
    content = read().content
    letters = sorted(set(content))
    edge = int(len(content) * 0.9)
    for held_out, part in ((False, content[:edge]), (True, content[edge:])):
        ids, targets = drawn(CharLM(), 8, 40, held_out=held_out)
        for row, asked in zip(ids.tolist(), targets.tolist(), strict=True):
            text = "".join(letters[token] for token in row)
            assert text + letters[asked[-1]] in part
            assert asked[:-1] == row[1:]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "mqra",
            "Unknown task 'mqra'. Did you mean 'mqar'? Tasks are char_lm, counting, flip_flop, letters, mqar, selective_copy.",
        ),
        (
            "mqar:pair=3",
            "mqar has no setting 'pair'. Did you mean 'pairs'? Its settings are pairs, tokens, power, noise.",
        ),
        ("char_lm:x=1", "char_lm has no setting 'x'. It has none."),
        ("mqar:pairs", "'pairs' in 'mqar:pairs' is not key=value; type mqar:key=value,key=value."),
        ("mqar:", "is not key=value"),
        ("mqar:pairs=2,pairs=3", "'pairs' is given twice"),
        ("mqar:pairs=many", "mqar.pairs must be a whole number; got 'many'."),
        ("mqar:pairs=2.5", "mqar.pairs must be a whole number; got '2.5'."),
        ("mqar:noise=3", "mqar.noise must be true or false; got '3'."),
        ("mqar:pairs=0", "mqar.pairs must be at least 1; got 0."),
        ("mqar:pairs=16", "mqar.tokens must be at least 34 for 16 pairs; got 32."),
        ("mqar:power=2", "mqar.power must be from 0 to 1; got 2.0."),
        ("flip_flop:ignore=1.5", "flip_flop.ignore must be from 0 to 1; got 1.5."),
        ("selective_copy:tokens=2", "selective_copy.tokens must be at least 3; got 2."),
    ],
)
def test_what_is_typed_wrong(text: str, said: str) -> None:
    with pytest.raises(RegardError) as error:
        task(text)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "length", "said"),
    [
        ("mqar", 14, "mqar needs at least 16 tokens; got --length 14."),
        ("mqar:pairs=2", 17, "mqar:pairs=2 needs an even length; got 17. Type --length 18."),
        ("flip_flop", 2, "flip_flop needs at least 4 tokens"),
        ("selective_copy", 15, "selective_copy needs at least 16 tokens"),
        ("char_lm", 10**6, "characters to draw from; type --length "),
    ],
)
def test_lengths_that_do_not_fit(text: str, length: int, said: str) -> None:
    with pytest.raises(RegardError) as error:
        drawn(task(text), 1, length)
    assert said in str(error.value)


def test_settings_are_told_and_typed_back() -> None:
    one = task("mqar:noise=true,power=1")
    assert one.label == "mqar:power=1.0,noise=True"
    assert task(one.label) == one
    assert task("mqar").label == "mqar"


def test_less_loss_and_more_accuracy_are_better() -> None:
    assert MQAR().better(0.9, 0.8)
    assert CharLM().better(1.0, 2.0)
    assert MQAR().solved(0.95)
    assert not MQAR().solved(0.949)
    assert CharLM().solved(2.0)
    assert not CharLM().solved(2.01)
