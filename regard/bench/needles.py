"""Retrieval: generated facts hidden at several depths of a text, each asked for at its end."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.bench.subject import Subject

NAMES = (
    "Amberley", "Brockhurst", "Calderon", "Dunmore", "Everstone", "Fairholm", "Glenrock", "Harrowgate",
    "Ivesmoor", "Kestrel", "Larkspur", "Merriwick", "Northcote", "Oakhaven", "Pemberton", "Quillfeather",
)  # fmt: skip


@dataclass(frozen=True)
class Needles:
    """A haystack with facts in it and a question for each.

    Shapes: `haystack` [T] token ids; `depths` in 0..1; each question and answer a list of token ids.
    """

    haystack: Tensor
    depths: list[float]
    questions: list[list[int]]
    answers: list[list[int]]


def hide(tokenizer: Any, tokens: Tensor, length: int, count: int, seed: int = 0) -> Needles:
    """Hide `count` facts "The secret number of NAME is 12345." evenly in the first `length` tokens of a text."""
    if count > len(NAMES):
        raise ValueError(f"at most {len(NAMES)} facts have names of their own; got {count}.")
    generator = torch.Generator().manual_seed(seed)
    names = [NAMES[n] for n in torch.randperm(len(NAMES), generator=generator)[:count].tolist()]
    numbers = torch.randint(10000, 100000, (count,), generator=generator).tolist()
    facts = [_ids(tokenizer, f"\n\nThe secret number of {a} is {n}.\n\n") for a, n in zip(names, numbers, strict=True)]
    room = length - sum(map(len, facts))
    if room < count:
        raise ValueError(f"{count} facts do not fit into {length} tokens; ask for fewer needles or a longer haystack.")
    body = tokens[:room].tolist()
    places = [round((n + 0.5) / count * room) for n in range(count)]
    haystack: list[int] = []
    depths, start = [], 0
    for place, fact in zip(places, facts, strict=True):
        haystack += body[start:place]
        depths.append(len(haystack) / length)
        haystack += fact
        start = place
    haystack += body[start:]
    questions, answers = [], []
    for name, number in zip(names, numbers, strict=True):
        asked = _ids(tokenizer, f"\n\nThe secret number of {name} is")
        whole = _ids(tokenizer, f"\n\nThe secret number of {name} is {number}.")
        questions.append(asked)
        answers.append(whole[len(asked) : -1])
    return Needles(torch.tensor(haystack), depths, questions, answers)


@torch.no_grad()
def ask(subject: Subject, needles: Needles, past: Any) -> list[dict[str, object]]:
    """Ask each question after the haystack in the cache; right if every token of the answer is the likeliest one."""
    found = []
    for depth, question, answer in zip(needles.depths, needles.questions, needles.answers, strict=True):
        ids = torch.tensor([question + answer[:-1]], device=subject.device)
        logits = subject.forward(ids, copy.deepcopy(past)).logits[0]
        guess = logits[-len(answer) :].argmax(-1).tolist()
        found.append({"depth": depth, "correct": guess == answer})
    return found


def _ids(tokenizer: Any, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]
