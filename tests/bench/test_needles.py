"""Facts hidden in a text, and questions about them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from regard.bench.needles import NAMES, Needles, ask, hide
from tests.bench.tiny import subject, text, tokenizer

FACT = r"\n\nThe secret number of (\w+) is (\d{5})\.\n\n"


def tokens() -> torch.Tensor:
    return subject().tokens(text(8000).content)


@pytest.mark.parametrize(("length", "count"), [(1024, 8), (1024, 1), (300, 5)])
def test_facts_lie_at_their_depths(length: int, count: int) -> None:
    body = tokens()
    needles = hide(tokenizer(), body, length, count, seed=1)
    assert len(needles.haystack) == length
    whole = tokenizer().decode(needles.haystack)
    facts = re.findall(FACT, whole)
    assert len(facts) == count == len({name for name, _ in facts})
    assert {name for name, _ in facts} <= set(NAMES)
    for (name, number), depth, question, answer in zip(
        facts, needles.depths, needles.questions, needles.answers, strict=True
    ):
        at = round(depth * length)
        assert tokenizer().decode(needles.haystack[at:]).startswith(f"\n\nThe secret number of {name} is {number}.")
        assert tokenizer().decode(question) == f"\n\nThe secret number of {name} is"
        assert tokenizer().decode(answer).strip() == number
        # The question and its answer are the fact's own tokens.
        assert needles.haystack[at : at + len(question) + len(answer)].tolist() == question + answer
    # Evenly: as much text before the first as after the last, and twice as much between two, to a rounding.
    assert needles.depths == sorted(needles.depths)
    long = [len(tokenizer()(f"\n\nThe secret number of {a} is {n}.\n\n")["input_ids"]) for a, n in facts]
    gaps = [
        round(b * length) - round(a * length) - n
        for a, b, n in zip(needles.depths, needles.depths[1:], long, strict=False)
    ]
    lead, tail = round(needles.depths[0] * length), length - round(needles.depths[-1] * length) - long[-1]
    assert abs(lead - tail) <= 1
    assert all(abs(gap - 2 * lead) <= 2 for gap in gaps)
    rest = needles.haystack.tolist()
    for depth, size in reversed(list(zip(needles.depths, long, strict=True))):
        del rest[round(depth * length) : round(depth * length) + size]
    assert rest == body[: len(rest)].tolist()  # the text itself is whole


def test_the_seed_decides() -> None:
    body = tokens()
    first, again, other = (hide(tokenizer(), body, 512, 4, seed) for seed in (0, 0, 1))
    assert torch.equal(first.haystack, again.haystack)
    assert first.answers == again.answers
    assert first.answers != other.answers


def test_too_many_facts_are_refused() -> None:
    with pytest.raises(ValueError, match="12 facts do not fit into 200 tokens; ask for fewer needles"):
        hide(tokenizer(), tokens(), 200, 12)


def test_an_answer_is_right_only_if_every_token_is_the_likeliest() -> None:
    class Knows:
        """Always knows what follows `true`, whatever came before."""

        device = torch.device("cpu")

        def __init__(self, true: list[int]) -> None:
            self.true = true

        def forward(self, ids: torch.Tensor, past: list[int]) -> SimpleNamespace:
            past.append(1)  # a question must not be seen by the next one
            assert past == [0, 1]
            logits = torch.zeros(1, ids.shape[1], 50)
            for at, token in enumerate(self.true):
                logits[0, ids.shape[1] - len(self.true) + at, token] = 1
            return SimpleNamespace(logits=logits)

    needles = Needles(torch.arange(4), [0.25, 0.75], [[1, 2], [3]], [[7, 8, 9], [7, 8, 5]])
    past = [0]
    found = ask(Knows([7, 8, 9]), needles, past)  # type: ignore[arg-type]
    assert found == [{"depth": 0.25, "correct": True}, {"depth": 0.75, "correct": False}]
    assert past == [0]


@pytest.mark.checkpoint
def test_a_real_tokenizer_splits_a_fact_as_the_question_and_its_answer(pulled: Callable[[str], Path]) -> None:
    from transformers import AutoTokenizer

    real = AutoTokenizer.from_pretrained(pulled("smollm2-135m"))
    body = torch.tensor(real(text(20000).content, add_special_tokens=False)["input_ids"])
    needles = hide(real, body, 1024, 8)
    assert len(needles.haystack) == 1024
    for depth, question, answer in zip(needles.depths, needles.questions, needles.answers, strict=True):
        at = round(depth * 1024)
        assert needles.haystack[at : at + len(question) + len(answer)].tolist() == question + answer
        assert re.fullmatch(r"\d{5}", real.decode(answer).strip())
