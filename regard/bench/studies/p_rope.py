"""Which frequencies a pretrained model uses, and how many pairs need to turn."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from regard.bench.studies.losses import WHAT as CHARS
from regard.bench.studies.losses import not_higher
from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick, trained
from regard.bench.train.spread import interval
from regard.errors import CheckpointError
from regard.hf import Intervention, apply
from regard.lens.frequencies import FrequencyUsage, MutePairs, PositionalHeads

MODEL, TOKENS, QUARTER, FAST = "smollm2-135m", 256, 4, 0.5
SLOW_LENGTHS, FAST_LENGTHS = (
    "length of q times that of k, slowest quarter",
    "length of q times that of k, fastest quarter",
)
SHARE = "share of the lengths that is in the fastest quarter"
PATTERN, LOSS, RISE = "weight on the token before", "loss", "rise of the loss"
BEFORE, OTHERS, ALL = "heads on the token before", "as many other heads", "all heads"
MUTED, OTHERS_MUTED = f"{BEFORE}, without their fastest quarter", f"{OTHERS}, without their fastest quarter"

SHARES = tuple(f"p_rope:p={p}" for p in (0.0, 0.25, 0.5, 0.75, 1.0))
NONE, BEST, WHOLE = SHARES[0], SHARES[3], SHARES[4]
LENGTH = 64
FAR = f"char_lm, loss at {8 * LENGTH} tokens"


def used(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """SmolLM2 on stretches of the book, whole and with pairs muted; no rows where it was not pulled."""
    from regard.bench.subject import Subject
    from regard.bench.text import read

    with contextlib.suppress(CheckpointError):
        subject = Subject.open(MODEL)
        text = read().content
        ids = subject.tokens(text[len(text) // 2 :][: 8 * TOKENS * seeds])
        stretches = [ids[n * TOKENS : (n + 1) * TOKENS][None] for n in range(seeds)]
        return figures(subject.model, stretches, steps, progress)
    return []


def figures(model: torch.nn.Module, stretches: Sequence[Tensor], draws: int, progress: Progress) -> list[Row]:
    """The figures of one model: a mean over texts, with its interval."""
    usage, heads = FrequencyUsage(), PositionalHeads()
    for text in stretches:
        _loss(model, text, usage, heads)  # which heads they are is of all texts together
    chosen = [(int(n), int(h)) for n, h in (heads.previous > FAST).nonzero().tolist()]
    rest = [(n, h) for n in range(len(heads.own)) for h in range(heads.own.shape[1]) if (n, h) not in chosen]
    found: dict[tuple[str, str], list[float]] = {}
    for number, text in enumerate(stretches):
        progress(f"stretch {number}", number / len(stretches))
        one, seen = FrequencyUsage(), PositionalHeads()
        plain = _loss(model, text, one, seen)
        quarter = one.both.shape[-1] // QUARTER
        fast, slow = one.both[..., :quarter], one.both[..., -quarter:]
        share = fast.sum(-1) / one.both.sum(-1)
        told = {
            (ALL, SLOW_LENGTHS): slow.mean(),
            (ALL, FAST_LENGTHS): fast.mean(),
            (ALL, SHARE): share.mean(),
            (ALL, LOSS): plain,
        }
        if chosen:
            where = tuple(torch.tensor(chosen).T)
            again, mute = PositionalHeads(), tuple(range(quarter))
            told |= {
                (BEFORE, SHARE): share[where].mean(),
                (BEFORE, PATTERN): seen.previous[where].mean(),
                (MUTED, RISE): _loss(model, text, MutePairs(mute, heads=_by_layer(chosen)), again) - plain,
                (MUTED, PATTERN): again.previous[where].mean(),
            }
            source = torch.Generator().manual_seed(number)
            others = [
                [rest[n] for n in torch.randperm(len(rest), generator=source)[: len(chosen)].tolist()]
                for _ in range(draws)
            ]
            losses = [_loss(model, text, MutePairs(mute, heads=_by_layer(some))) for some in others]
            told[OTHERS_MUTED, RISE] = sum(losses) / len(losses) - plain
        for key, value in told.items():
            found.setdefault(key, []).append(float(value))
    return [_row(*key, values) for key, values in found.items()]


def fast_for_places(rows: Sequence[Row]) -> bool | None:
    """Slow pairs are long, heads on the token before use fast ones, and lose their pattern without."""
    lost = pick(rows, MUTED, PATTERN)
    return both(
        above(pick(rows, ALL, SLOW_LENGTHS), pick(rows, ALL, FAST_LENGTHS)),
        above(pick(rows, BEFORE, SHARE), pick(rows, ALL, SHARE)),
        None if lost is None or lost.high is None else lost.high < FAST / 2,
        above(pick(rows, MUTED, RISE), pick(rows, OTHERS_MUTED, RISE)),
    )


def losses(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """The loss at the trained length, and at eight times it, of each share of pairs that turn."""
    runs = trained("char_lm", SHARES, steps, seeds, progress, length=LENGTH, tests=128)
    far = str(8 * LENGTH)
    return [
        *over_seeds(runs, CHARS, "nats", lambda run: run["metric"]),
        *over_seeds(runs, FAR, "nats", lambda run: run["lengths"].get(far)),
    ]


def most_is_enough(rows: Sequence[Row]) -> bool | None:
    """No turning is the worst, and three quarters as good as all."""
    worst = (above(pick(rows, NONE, CHARS), pick(rows, other, CHARS)) for other in SHARES[1:])
    return both(*worst, not_higher(BEST, WHOLE, 0.02)(rows))


def _row(mechanism: str, what: str, values: Sequence[float]) -> Row:
    low, high = interval(list(values)) or (None, None)
    return Row(mechanism, what, sum(values) / len(values), low, high, "nats" if what in (LOSS, RISE) else "")


def _by_layer(heads: Sequence[tuple[int, int]]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    for layer, head in heads:
        found.setdefault(layer, []).append(head)
    return found


@torch.no_grad()
def _loss(model: torch.nn.Module, ids: Tensor, *what: Intervention) -> float:
    with apply(model, *what, meter=False):
        return float(model(input_ids=ids, labels=ids, use_cache=False).loss)


STUDIES = (
    Study(
        name="frequency_usage",
        entry="p_rope",
        claim="A pretrained model is longest in its slowest pairs, and looks at the token before with its fastest.",
        setting=f"SmolLM2-135M, {TOKENS} tokens of the book at a time: a seed is such a stretch, and a step a draw of "
        f"other heads; heads on the token before give it more than {FAST} on average",
        rule="In the mean over layers and heads the slowest quarter of pairs is longer than the fastest; heads on the "
        "token before have a larger share in the fastest; without that they give the token before less than "
        f"{FAST / 2}, and the loss rises by more than without it in as many other heads, on the same texts.",
        steps=2,
        seeds=3,
        measure=used,
        verdict=fast_for_places,
    ),
    Study(
        name="p_rope",
        entry="p_rope",
        claim="RoPE loses nothing where its slowest quarter of pairs does not turn, and much where none does.",
        setting=f"2 layers of width 64, heads of 8 pairs, characters of a book, {LENGTH} tokens",
        rule="The interval of p=0 lies above all others, and that of p=0.75 ends at most 0.02 nats above the start of "
        "p=1's.",
        steps=300,
        seeds=3,
        measure=losses,
        verdict=most_is_enough,
    ),
)
