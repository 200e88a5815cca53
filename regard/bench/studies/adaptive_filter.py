"""Attention that filters tracks a rotating system nearly as well as the Kalman filter that knows it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regard.bench.studies.study import Progress, Row, Study, above, both, pick
from regard.bench.train.spread import interval
from regard.layers.create import create
from regard.mechanisms import Call, Layer
from regard.mechanisms.dense import AdaptiveFilterAttention

DECAY, TURN, STATE = 0.05, 0.5, 1.0  # a step; and the variance of the state at rest
NOISES = (0.3, 1.0)  # the observations' standard deviation, of a state's 1
LENGTH, WIDTH, HEADS, BATCH, TESTS = 64, 16, 4, 16, 512
AFA, PLAIN = f"adaptive_filter_attention:predict=true,gain=false,steps={LENGTH}", "softmax:position=rope"
TURNS, DECAYS, NEAR = "learned frequency over the true one", "learned decay over the true one", 1.25


def error(noise: float) -> str:
    """What the figure of one noise is called."""
    return f"next state at noise {noise}, mean squared error"


def floor(noise: float) -> str:
    """The same of the filter that knows the system."""
    return f"next state at noise {noise}, mean squared error of the Kalman filter"


def spread(noise: float) -> str:
    """What the width of the weights is called."""
    return f"keys that the last token weighs at noise {noise}, perplexity"


def tracks(batch: int, noise: float, source: torch.Generator) -> tuple[Tensor, Tensor]:
    """Observations [B, N, 2] of dz = A z dt + dW, at rest, and the states [B, N, 2] that follow each."""
    kept = math.exp(-DECAY)
    A = kept * torch.tensor([[math.cos(TURN), -math.sin(TURN)], [math.sin(TURN), math.cos(TURN)]])
    z = torch.randn(batch, 2, generator=source) * math.sqrt(STATE / 2)
    states = [z]
    for _ in range(LENGTH):
        jump = math.sqrt(STATE * (1 - kept**2) / 2)
        states.append(states[-1] @ A.T + torch.randn(batch, 2, generator=source) * jump)
    path = torch.stack(states, 1)
    seen = path[:, :-1] + torch.randn(batch, LENGTH, 2, generator=source) * noise / math.sqrt(2)
    return seen, path[:, 1:]


def kalman(seen: Tensor, noise: float) -> Tensor:
    """The next states [B, N, 2] expected by the filter that knows the system and the noise."""
    kept = math.exp(-DECAY)
    A = kept * torch.tensor([[math.cos(TURN), -math.sin(TURN)], [math.sin(TURN), math.cos(TURN)]])
    z, variance, found = torch.zeros_like(seen[:, 0]), STATE, []
    for n in range(seen.shape[1]):
        gain = variance / (variance + noise**2)
        z = (z + gain * (seen[:, n] - z)) @ A.T
        variance = kept**2 * (1 - gain) * variance + STATE * (1 - kept**2)
        found.append(z)
    return torch.stack(found, 1)


class Tracker(nn.Module):
    """One attention layer between two linear maps, from observations to states."""

    def __init__(self, layer: Layer) -> None:
        super().__init__()
        self.into, self.layer, self.out = nn.Linear(2, WIDTH, bias=False), layer, nn.Linear(WIDTH, 2, bias=False)

    def forward(self, seen: Tensor) -> Tensor:
        return self.out(self.layer(self.into(seen), causal=True))


def trained(layer: Layer, noise: float, steps: int, seed: int) -> Tracker:
    """A tracker trained on new tracks at every step."""
    source, model = torch.Generator().manual_seed(1000 + seed), Tracker(layer)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        seen, states = tracks(BATCH, noise, source)
        optimiser.zero_grad()
        (model(seen) - states).square().sum(-1).mean().backward()
        optimiser.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def learned(model: Tracker, seen: Tensor) -> tuple[float, float, float]:
    """Frequency and decay of the head that adds most to the output, and the perplexity of its last weights.

    The weights are those with which values arrive, decayed.
    """
    layer = model.layer
    assert isinstance(layer, AdaptiveFilterAttention)
    x = model.into(seen)
    read, parts = [], layer.out.weight.T.unflatten(0, (HEADS, -1))  # [H, D, C]
    hook = layer.out.register_forward_pre_hook(lambda part, given: read.append(given[0].unflatten(-1, (HEADS, -1))))
    layer(x, causal=True)
    hook.remove()
    adds = torch.einsum("bnhd,hdc,oc->bnho", read[0], parts, model.out.weight).square().mean((0, 1, 3))
    head = int(adds.argmax())
    own = layer.eigenvalues[head]
    weights = layer.weights(Call(tokens=x, memory=x, causal=True))[:, head, -1]
    arriving = weights * (own.real.mean() * torch.arange(LENGTH - 1, -1, -1)).exp()
    shares = arriving / arriving.sum(-1, keepdim=True)
    entropy = -torch.special.xlogy(shares, shares).sum(-1).mean()
    return float(own.imag.abs().mean()) / TURN, float(-own.real.mean()) / DECAY, float(entropy.exp())


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Errors on new tracks, and what was learned of the system."""
    found: dict[tuple[str, str], list[float]] = {}
    names = {AFA: ("adaptive_filter_attention", {"predict": True, "gain": False, "steps": LENGTH})}
    names[PLAIN] = ("softmax", {"position": "rope"})
    jobs = [(noise, seed, label) for noise in NOISES for seed in range(seeds) for label in names]
    for done, (noise, seed, label) in enumerate(jobs):
        progress(f"{label} at noise {noise}, seed {seed}", done / len(jobs))
        torch.manual_seed(seed)
        name, settings = names[label]
        layer = create(name, dim=WIDTH, heads=HEADS, **settings)
        model = trained(layer, noise, steps, seed)
        seen, states = tracks(TESTS, noise, torch.Generator().manual_seed(seed))
        with torch.no_grad():
            told = {error(noise): model(seen)}
        if label == AFA:
            told[floor(noise)] = kalman(seen, noise)
            turn, decay, width = learned(model, seen)
            for what, value in ((TURNS, turn), (DECAYS, decay), (spread(noise), width)):
                found.setdefault((label, what), []).append(value)
        for what, guess in told.items():
            off = float((guess - states).square().sum(-1).mean())
            found.setdefault((label, what), []).append(off)
    rows = []
    for (label, what), values in found.items():
        low, high = interval(values) or (None, None)
        unit = "x" if what in (TURNS, DECAYS) else "keys" if "perplexity" in what else "of variance 1"
        rows.append(Row(label, what, statistics.fmean(values), low, high, unit))
    return rows


def verdict(rows: Sequence[Row]) -> bool | None:
    """Below softmax and near the filter at both noises; the system found; wider weights with more noise."""
    parts = [above(pick(rows, AFA, spread(NOISES[1])), pick(rows, AFA, spread(NOISES[0])))]
    for noise in NOISES:
        own, best = pick(rows, AFA, error(noise)), pick(rows, AFA, floor(noise))
        parts += [above(pick(rows, PLAIN, error(noise)), own)]
        parts += [None if best is None else within(own, 0.0, NEAR * best.value)]
    parts += [within(pick(rows, AFA, what), 1 / factor, factor) for what, factor in ((TURNS, 1.1), (DECAYS, 2.0))]
    return both(*parts)


def within(row: Row | None, low: float, high: float) -> bool | None:
    """Whether an interval lies inside the bounds: True, False where it lies outside, None where it is cut by one."""
    if row is None or row.low is None or row.high is None:
        return None
    if low <= row.low and row.high <= high:
        return True
    return False if row.high < low or row.low > high else None


STUDY = Study(
    name="adaptive_filter",
    entry="adaptive_filter_attention",
    claim="Attention as an adaptive filter predicts a damped rotating system better than softmax attention, nearly as "
    "well as the Kalman filter that knows it; it learns the system, and weighs more of the past where there is more "
    "noise.",
    setting=f"one layer of width {WIDTH} with {HEADS} heads between linear maps, {LENGTH} noisy observations of a 2-D "
    f"system that turns by {TURN} and decays by {DECAY} a step; no blend with a token's own value, so that weights are "
    "all there is of the filter; frequency, decay and weights are those of the head that adds most to the output",
    rule="At both noises adaptive_filter_attention's interval lies below softmax's and ends at most at "
    f"{NEAR} times the Kalman filter's mean; its frequency's interval lies within 10% of the true one, that of its "
    "decay within a factor of 2; and that of its weights' perplexity lies higher with more noise.",
    steps=300,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
