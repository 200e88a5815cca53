"""Windows of many sizes in the decoder of a masked autoencoder of sounds."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick
from regard.layers import Attention
from regard.lens.distances import pwcca

WINDOWS = "mw_mha:windows=2+4+10+20+25+50+0+0"
PLAIN = "softmax"
LOSS, ALIKE, UNLIKE = "error on masked patches", "PWCCA of equal windows", "PWCCA of different windows"
FRAMES, BANDS, PATCH, DIM, HEADS, SEEN, BATCH, DEPTH = 40, 40, (2, 8), 64, 8, 20, 16, 3
PLACES = (FRAMES // PATCH[0]) * (BANDS // PATCH[1])


def sounds(count: int, generator: torch.Generator) -> Tensor:
    """Patches [count, PLACES, 16] of log-mel spectrograms, time first, of harmonic chirps that beat, in noise."""

    def between(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand(count, 1, generator=generator)

    t = torch.arange(FRAMES * 100 + 156) / 8000
    wave = 0.05 * torch.randn(count, len(t), generator=generator)
    for _ in range(2):
        tone, slope, beat = between(150, 1200), between(-1000, 1000), between(3, 25)
        phase = 2 * math.pi * (tone * t + slope * t.square() / 2)
        loud = (0.5 + 0.5 * torch.sin(2 * math.pi * (beat * t + between(0, 1)))) ** 2
        wave = wave + loud * sum(torch.sin(n * phase) / n for n in (1, 2, 3))
    window = torch.hann_window(256)
    spectrum = torch.stft(wave, 256, 100, window=window, center=False, return_complex=True).abs().square()
    mel = (torch.log(_bands() @ spectrum[..., :FRAMES] + 1e-3) + 1) / 3
    patches = mel.transpose(1, 2).unflatten(1, (-1, PATCH[0])).unflatten(3, (-1, PATCH[1]))
    return patches.transpose(2, 3).flatten(1, 2).flatten(2)


def _bands() -> Tensor:
    """Triangles [BANDS, 129] that are even on the mel scale up to 4 kHz."""
    top = 2595 * math.log10(1 + 4000 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, BANDS + 2) / 2595) - 1)
    at = torch.linspace(0, 4000, 129)
    up, down = (at - edges[:-2, None]) / edges.diff()[:-1, None], (edges[2:, None] - at) / edges.diff()[1:, None]
    return torch.minimum(up, down).clamp(min=0)


class Block(nn.Module):
    """Attention and a map, each after a norm and beside a residual.

    Shapes: [B, N, DIM] to [B, N, DIM].
    """

    def __init__(self, mixer: str) -> None:
        super().__init__()
        self.attention = Attention(DIM, HEADS, mixer=mixer)
        self.before, self.after = nn.LayerNorm(DIM), nn.LayerNorm(DIM)
        self.map = nn.Sequential(nn.Linear(DIM, 4 * DIM), nn.GELU(), nn.Linear(4 * DIM, DIM))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.before(x))
        return x + self.map(self.after(x))


class Autoencoder(nn.Module):
    """An encoder of the patches that are seen, plain, and a decoder of all, whose attention is the mixer's.

    Shapes: patches [B, PLACES, P] and the order [B, PLACES] of which the first SEEN are seen, to [B, PLACES, P].
    """

    def __init__(self, mixer: str) -> None:
        super().__init__()
        size = PATCH[0] * PATCH[1]
        self.read, self.write = nn.Linear(size, DIM), nn.Linear(DIM, size)
        self.masked = nn.Parameter(torch.randn(DIM) * 0.02)
        self.encoder = nn.Sequential(Block(PLAIN), Block(PLAIN), nn.LayerNorm(DIM))
        self.decoder = nn.ModuleList(Block(mixer) for _ in range(DEPTH))
        self.norm = nn.LayerNorm(DIM)
        angles = torch.arange(PLACES)[:, None] / 10000 ** (torch.arange(0, DIM, 2) / DIM)
        self.places: Tensor
        self.register_buffer("places", torch.cat([angles.sin(), angles.cos()], 1))

    def forward(self, patches: Tensor, order: Tensor) -> Tensor:
        index = order[:, :SEEN, None]
        seen = self.encoder((self.read(patches) + self.places).take_along_dim(index, 1))
        room = self.masked.expand(len(patches), PLACES, DIM)
        x = room.scatter(1, index.expand(-1, -1, DIM), seen) + self.places
        for block in self.decoder:
            x = block(x)
        return self.write(self.norm(x))


def error(model: Autoencoder, patches: Tensor, generator: torch.Generator) -> Tensor:
    """The mean square error on the patches that were masked."""
    order = torch.rand(patches.shape[:2], generator=generator).argsort(1)
    wrong = (model(patches, order) - patches).square().mean(-1)
    return wrong.gather(1, order[:, SEEN:]).mean()


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """The error after training, and how alike heads of different layers of the decoder are."""
    runs: list[dict[str, Any]] = []
    plan = [(seed, mixer) for seed in range(seeds) for mixer in (WINDOWS, PLAIN)]
    for number, (seed, mixer) in enumerate(plan):
        progress(f"{mixer}, seed {seed}", number / len(plan))
        model = _trained(mixer, steps, seed)
        source = torch.Generator().manual_seed(9)
        with torch.no_grad():
            held = sounds(64, source)
            run: dict[str, Any] = {"mechanism": mixer, LOSS: float(error(model, held, source))}
            if mixer == WINDOWS:
                run[ALIKE], run[UNLIKE] = _likeness(model, held, source)
        runs.append(run)
    own = [run for run in runs if run["mechanism"] == WINDOWS]
    rows = over_seeds(runs, LOSS, "", lambda run: run[LOSS])
    return rows + [row for key in (ALIKE, UNLIKE) for row in over_seeds(own, key, "", lambda run, key=key: run[key])]


def _trained(mixer: str, steps: int, seed: int) -> Autoencoder:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Autoencoder(mixer)
    source = torch.Generator().manual_seed(1000 + seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.01)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps + 1)
    for _ in range(steps):
        optimiser.zero_grad()
        error(model, sounds(BATCH, source), source).backward()
        optimiser.step()
        rate.step()
    return model.eval()


def _likeness(model: Autoencoder, patches: Tensor, generator: torch.Generator) -> tuple[float, float]:
    """Mean PWCCA of heads of two layers of the decoder, of one window and of two."""
    heads: list[Tensor] = []
    mixers = [block.attention.mixer for block in model.decoder if isinstance(block, Block)]
    hooks = [m.register_forward_hook(lambda *came: heads.append(came[2])) for m in mixers]
    error(model, patches, generator)
    for hook in hooks:
        hook.remove()
    windows: Sequence[int] = mixers[0].windows  # type: ignore[assignment]
    same: list[float] = []
    other: list[float] = []
    for a, b in ((a, b) for a in range(DEPTH) for b in range(DEPTH) if a != b):
        for g, v in enumerate(windows):
            for h, w in enumerate(windows):
                found = pwcca(heads[a][:, g].flatten(0, 1), heads[b][:, h].flatten(0, 1))
                (same if v == w else other).append(float(found))
    return statistics.fmean(same), statistics.fmean(other)


def verdict(rows: Sequence[Row]) -> bool | None:
    """Not a larger error, and equal windows more alike than different ones."""
    larger = above(pick(rows, WINDOWS, LOSS), pick(rows, PLAIN, LOSS))
    alike = above(pick(rows, WINDOWS, ALIKE), pick(rows, WINDOWS, UNLIKE))
    known = pick(rows, WINDOWS, LOSS) is not None and pick(rows, PLAIN, LOSS) is not None
    return both(not larger if known else None, alike)


STUDY = Study(
    name="mw_mha",
    entry="mw_mha",
    claim="A masked autoencoder of sounds whose decoder has windows of many sizes restores masked patches at least as "
    "well as one whose heads all look everywhere, and its heads of one window are alike across layers.",
    setting=f"log-mel spectrograms of drawn chirps, {PLACES} patches of which {SEEN} are seen; encoder of 2 and "
    f"decoder of {DEPTH} blocks of width {DIM}, {HEADS} heads, windows 2, 4, 10, 20, 25, 50 and two global",
    rule="The interval of the error of mw_mha does not lie above that of softmax, and that of the PWCCA of heads of "
    "one window in two layers lies above that of heads of different windows.",
    steps=250,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
