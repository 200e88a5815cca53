"""A speech encoder whose long first stage attends by groups: errors on digits of tones, and time."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from regard.backbones.speech import EfficientConformer
from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick
from regard.bench.train.settings import Settings
from regard.mechanisms.heads import GroupedAttention

GROUPED, PLAIN = ("grouped_time_attention:group=3,relative=true", "grouped_time_attention:group=1,relative=true")
WRONG, LINEAR = "digits of tones, errors", "digits of tones, errors of one linear map instead"
SPEED = "forward and backward at 1,200 tokens, processor time over plain's"
RATE, HOP, FRAMES, MELS, SLOT, MOST, MARGIN = 8000, 80, 96, 24, 16, 6, 5.0
_LOW, _HIGH = (697.0, 770.0, 852.0, 941.0), (1209.0, 1336.0, 1477.0)
_TONES = [(low, high) for low in _LOW[:3] for high in _HIGH] + [(_LOW[3], _HIGH[1])]


def sound(generator: torch.Generator, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Telephone digits in noise as logarithms of mel bands, 3 to 6 in a row, each somewhere in 16 frames of 10 ms.

    Shapes: [size, 96, 24]; digits [size, 6]; how many of them [size].
    """
    asked = torch.randint(10, (size, MOST), generator=generator)
    count = torch.randint(3, MOST + 1, (size,), generator=generator)
    at = torch.arange(SLOT * HOP)
    begin = torch.randint(SLOT * HOP // 2, (size, MOST, 1), generator=generator)
    there = (at >= begin) & (at < begin + SLOT * HOP // 2) & (torch.arange(MOST)[:, None] < count[:, None, None])
    turns = 2 * math.pi * torch.tensor(_TONES)[asked][..., None] * at / RATE
    wave = (turns + 6 * torch.rand(size, MOST, 2, 1, generator=generator)).sin().sum(2) * there
    wave = wave.flatten(1) + 0.7 * torch.randn(size, MOST * SLOT * HOP, generator=generator)
    power = torch.stft(wave, 256, HOP, window=torch.hann_window(256), return_complex=True).abs().square()
    return (_bands() @ power + 1e-3).log().transpose(1, 2)[:, :FRAMES] / 4, asked, count


def _bands() -> Tensor:
    """Triangles [24, 129] over the frequencies, evenly wide in mel."""
    top = 2595 * math.log10(1 + 3800 / 700)
    edges = 700 * (10 ** (torch.linspace(200, top, MELS + 2) / 2595) - 1)
    at = torch.linspace(0, RATE / 2, 129)
    rise = (at - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - at) / (edges[2:] - edges[1:-1])[:, None]
    return torch.minimum(rise, fall).clamp_min(0)


class _Linear(nn.Module):
    """Four frames at a time, through one map."""

    def __init__(self) -> None:
        super().__init__()
        self.map = nn.Linear(4 * MELS, 11)

    def forward(self, frames: Tensor) -> tuple[Tensor, None]:
        return self.map(frames.unflatten(1, (-1, 4)).flatten(2)), None


def errors(told: Tensor, asked: Tensor, count: Tensor) -> float:
    """Insertions, deletions and changes, in % of the digits, of the likeliest classes [B, T] without repetition."""
    wrong = 0
    for row, want, n in zip(told.tolist(), asked.tolist(), count.tolist(), strict=True):
        found = [one for one, last in zip(row, [-1, *row], strict=False) if one not in (last, 10)]
        costs = list(range(n + 1))
        for i, one in enumerate(found):
            before, costs = costs, [i + 1]
            for j in range(n):
                costs.append(min(before[j] + (one != want[j]), before[j + 1] + 1, costs[j] + 1))
        wrong += costs[-1]
    return 100 * wrong / int(count.sum())


def _trained(group: int | None, seed: int, steps: int) -> float:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = _Linear()
        if group is not None:
            model = EfficientConformer(MELS, 10, dims=(36, 48), blocks=(2, 1), groups=(group, 1), kernel=7)
    plan = Settings(steps=steps, rate=3e-3)
    optimiser = torch.optim.AdamW(model.parameters(), lr=plan.rate)
    for step in range(steps):
        frames, asked, count = sound(torch.Generator().manual_seed(seed * 2**20 + step), 16)
        for of in optimiser.param_groups:
            of["lr"] = plan.rate_at(step)
        logits, _ = model(frames)
        lengths = torch.full((16,), logits.shape[1])
        chances = logits.log_softmax(-1).transpose(0, 1)
        loss = nn.functional.ctc_loss(chances, asked, lengths, count, blank=10, zero_infinity=True)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    frames, asked, count = sound(torch.Generator().manual_seed(2**40), 256)
    with torch.no_grad():
        return errors(model.eval()(frames)[0].argmax(-1), asked, count)


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Errors on digits drawn afresh, and ratios of medians of the time of one layer."""
    runs: list[dict[str, Any]] = []
    kinds = ((GROUPED, WRONG, 3), (PLAIN, WRONG, 1), (PLAIN, LINEAR, None))
    for number, (seed, (name, what, group)) in enumerate((seed, kind) for seed in range(seeds) for kind in kinds):
        runs.append({"mechanism": name, "what": what, "wrong": _trained(group, seed, steps)})
        progress(f"{name}, seed {seed}", (number + 1) / (seeds * len(kinds)))
    rows = []
    for what in (WRONG, LINEAR):
        rows += over_seeds([run for run in runs if run["what"] == what], what, "%", lambda run: run["wrong"])
    torch.manual_seed(0)
    layers = [GroupedAttention(120, 4, group=group, relative=True) for group in (1, 3)]
    x, ratios = torch.randn(1, 1200, 120), []
    for _ in range(seeds):
        spent: list[list[float]] = [[], []]
        for _ in range(5):
            for layer, own in zip(layers, spent, strict=True):
                start = time.process_time()
                layer(x).sum().backward()
                own.append(time.process_time() - start)
        ratios.append(statistics.median(spent[1][1:]) / statistics.median(spent[0][1:]))
    return [*rows, Row(GROUPED, SPEED, statistics.fmean(ratios), min(ratios), max(ratios), "x")]


def _near(own: Row | None, plain: Row | None) -> bool | None:
    """Whether errors are at most `MARGIN` points above others, to the ends of both intervals."""
    if plain is None or plain.low is None or plain.high is None:
        return None
    return above(replace(plain, low=plain.low + MARGIN, high=plain.high + MARGIN), own)


def verdict(rows: Sequence[Row]) -> bool | None:
    """Not more errors than plain attention, fewer than a linear map, and less time."""
    own, plain, linear = pick(rows, GROUPED, WRONG), pick(rows, PLAIN, WRONG), pick(rows, PLAIN, LINEAR)
    near, speed = _near(own, plain), pick(rows, GROUPED, SPEED)
    quick = None
    if speed is not None and speed.low is not None and speed.high is not None:
        quick = True if speed.high < 1 else False if speed.low > 1 else None
    return both(near, above(linear, own), quick)


STUDY = Study(
    name="grouped_time",
    entry="grouped_time_attention",
    claim="Groups of three in the first stage of a speech encoder make no more errors than plain attention there, in "
    "less time.",
    setting="3 to 6 telephone digits in noise, 96 frames of 24 mel bands; stages of 2 blocks of width 36 and 1 of 48; "
    "time of one layer of width 120; the range of the repetitions",
    rule=f"The interval of errors of groups ends at most {MARGIN:g} points above the start of plain attention's and "
    "lies below that of one linear map, and every repetition takes less time than plain attention.",
    steps=200,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
