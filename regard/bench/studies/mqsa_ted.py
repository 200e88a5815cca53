"""Short and long queries together foresee the next item better than either, and transitions distilled help."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.backbones.recommender import MultiQueryRecommender
from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick
from regard.mechanisms.heads.mqsa_ted import transition_counts

NAME, AT, LENGTH, DIM, BATCH, RATE = "mqsa_ted", 10, 16, 32, 128, 3e-3
# What each model is: alpha, and whether transitions are distilled.
KINDS = {"short": (1.0, False), "long": (0.0, False), "both": (0.5, False), "both and distilled": (0.5, True)}


@dataclass(frozen=True, eq=False)
class Histories:
    """Sequences of different items, the last of each to be foreseen, and those where a transition foretells it.

    Shapes: ids [S, LENGTH]; partners boolean [S].
    """

    ids: Tensor
    partners: Tensor
    items: int


def histories(users: int, generator: torch.Generator, *, clusters: int = 15, size: int = 20) -> Histories:
    """Users who go through items of their two clusters in any order, and from some items to their partners.

    Every third item has a partner of any cluster, which comes next half of the time.
    """
    items = clusters * size
    partner = torch.randperm(items, generator=generator).tolist()
    rows, told = [], []
    for _ in range(users):
        own = torch.randperm(clusters, generator=generator)[:2].tolist()
        room = torch.tensor([c * size + n for c in own for n in range(size)])
        left = room[torch.randperm(len(room), generator=generator)].tolist()
        row, led = [left.pop()], False
        chance = torch.rand(LENGTH, generator=generator).tolist()
        while len(row) < LENGTH:
            after = partner[row[-1]]
            led = row[-1] % 3 == 0 and after not in row and chance[len(row)] < 0.5
            if led:
                row.append(after)
            else:
                row.append(next(item for item in reversed(left) if item not in row))
        rows.append(row)
        told.append(led)
    return Histories(torch.tensor(rows), torch.tensor(told), items)


def hit_rate(scores: Tensor, wanted: Tensor, at: int) -> float:
    """The share of wanted items [S] among the first `at` by their scores [S, items], in %."""
    return 100 * float((_rank(scores, wanted) < at).double().mean())


def ndcg(scores: Tensor, wanted: Tensor, at: int) -> float:
    """1 / log2(rank + 1) of the wanted items [S] among the first `at`, else 0; the mean, in %."""
    rank = _rank(scores, wanted).double()
    return 100 * float(torch.where(rank < at, 1 / torch.log2(rank + 2), 0.0).mean())


def _rank(scores: Tensor, wanted: Tensor) -> Tensor:
    """How many items score higher than the wanted one; equal ones count half, as by chance."""
    own = scores.gather(1, wanted[:, None])
    return (scores > own).sum(1) + ((scores == own).sum(1) - 1) // 2


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Hits on the left-out last item, over all users and over those whose last item is a partner."""
    runs: list[dict[str, Any]] = []
    for seed in range(seeds):
        data = histories(1500, torch.Generator().manual_seed(seed))
        counts = transition_counts(data.ids[:, :-1], data.items)
        for number, (kind, (alpha, distilled)) in enumerate(KINDS.items()):
            progress(f"{kind}, seed {seed}", (seed + number / len(KINDS)) / seeds)
            scores = _scores(data, counts if distilled else None, alpha, steps, seed)
            wanted, some = data.ids[:, -1], data.partners
            run = {"mechanism": NAME, "kind": kind, "hits": hit_rate(scores, wanted, AT)}
            run |= {"ndcg": ndcg(scores, wanted, AT), "partners": hit_rate(scores[some], wanted[some], AT)}
            runs.append(run)
    rows = []
    for kind in KINDS:
        own = [run for run in runs if run["kind"] == kind]
        for key in ("hits", "ndcg", "partners"):
            rows += over_seeds(own, what(kind, key), "%", lambda run, key=key: run[key])
    return rows


def what(kind: str, key: str = "hits") -> str:
    """What a row is called."""
    told = {"hits": f"hits among {AT}", "ndcg": f"NDCG among {AT}", "partners": f"hits among {AT}, partners"}
    return f"{kind}: {told[key]}"


def _scores(data: Histories, counts: Tensor | None, alpha: float, steps: int, seed: int) -> Tensor:
    """Scores [S, items] of the last items by a model that was trained on all but these."""
    source = torch.Generator().manual_seed(1000 + seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = MultiQueryRecommender(data.items, DIM, length=LENGTH, alpha=alpha, dropout=0.3)
    optimiser = torch.optim.Adam(model.parameters(), lr=RATE)
    known = data.ids[:, :-1]
    for _ in range(steps):
        some = known[torch.randint(len(known), (BATCH,), generator=source)]
        optimiser.zero_grad()
        model.loss(some, counts, generator=source).backward()
        optimiser.step()
    with torch.no_grad():
        return model.unseen(model.eval()(known)[:, -1], known)


def verdict(rows: Sequence[Row]) -> bool | None:
    """Both above each alone, and distilled above both where a partner comes."""
    of = {(kind, key): pick(rows, NAME, what(kind, key)) for kind in KINDS for key in ("hits", "partners")}
    pairs = [(("both", "hits"), (kind, "hits")) for kind in ("short", "long")]
    pairs.append((("both and distilled", "partners"), ("both", "partners")))
    return both(*(above(of[a], of[b]) for a, b in pairs))


STUDY = Study(
    name="mqsa_ted",
    entry="mqsa_ted",
    claim="Short and long queries together foresee the next item better than either alone, and transitions distilled "
    "into the embedding help where one comes.",
    setting=f"1,500 histories of {LENGTH} of 300 items: two clusters of 20 in any order, and every third item has a "
    f"partner that comes next half of the time; one block of width {DIM} a branch, windows 1 and 3; the last item is "
    "left out",
    rule=f"On hits among {AT} the interval of both lies above that of short and of long, and on partners that of both "
    "and distilled lies above that of both.",
    steps=400,
    seeds=4,
    measure=measure,
    verdict=verdict,
)
