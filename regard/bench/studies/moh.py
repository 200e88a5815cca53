"""Routing to heads with and without the loss that balances it, and the time of the selected heads alone."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from regard.backbones import DecoderLM
from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick
from regard.bench.tasks import task
from regard.bench.train.entrant import entrants
from regard.bench.train.evaluate import evaluate
from regard.bench.train.settings import Settings, data_seed
from regard.layers import Attention
from regard.mechanisms import Call
from regard.mechanisms.heads import MoH

OWN, PLAIN = "moh:shared=4,active=2", "softmax"
LOSS, BUSY, APART = "char_lm, loss, {}", "busiest routed head over an even share, {}", "most that a head differs, {}"
WITH, WITHOUT = "balanced", "not balanced"
LENGTH, HEADS, WEIGHT, SLACK = 64, 8, 0.01, 0.02
QUICK, HALF = 2048, "moh:shared=2,active=2"
SPEED = "gathered heads at 2,048 tokens, processor time over all heads'"
ORDERED = f"{SPEED}, causal"


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Loss and use of the heads, trained with the loss of balance and without it."""
    runs, kinds = [], ((OWN, WITH, WEIGHT), (OWN, WITHOUT, 0.0), (PLAIN, "", 0.0))
    for number, (seed, kind) in enumerate((seed, kind) for seed in range(seeds) for kind in kinds):
        runs.append(_trained(*kind, seed, steps))
        progress(f"{kind[0]}, seed {seed}", (number + 1) / (seeds * len(kinds)))
    rows = []
    for name, how, _ in kinds:
        own = [run for run in runs if (run["mechanism"], run["how"]) == (name, how)]
        for what, key, unit in ((LOSS, "loss", "nats"), (BUSY, "busy", "x"), (APART, "apart", "%")):
            if key in own[0]:
                rows += over_seeds(own, what.format(how).removesuffix(", "), unit, lambda run, key=key: run[key])
    return rows


def _trained(name: str, how: str, weight: float, seed: int, steps: int) -> dict[str, Any]:
    """One training; `busy` and `apart` are of the routed heads on text that was held out."""
    book = task("char_lm")
    given = Settings(steps=steps, length=LENGTH, heads=HEADS, batch=16, tests=128)
    model = entrants([name])[0].model(book, given, seed)
    merges = [module for module in model.modules() if isinstance(module, MoH)]
    kept: list[Tensor] = []
    for merge in merges:  # what the loss needs of a call is what the merge is handed
        merge.register_forward_hook(lambda _, args, __, m=merge: kept.append(m.balance(args[1].tokens, args[1].q)))
    optimiser = torch.optim.AdamW(model.parameters(), lr=given.rate, weight_decay=given.decay, betas=(0.9, 0.95))
    for step in range(steps):
        ids, targets = book.batch(torch.Generator().manual_seed(data_seed(seed, step)), given.batch, LENGTH)
        kept.clear()
        loss = nn.functional.cross_entropy(model(ids).flatten(0, 1), targets.flatten())
        for group in optimiser.param_groups:
            group["lr"] = given.rate_at(step)
        optimiser.zero_grad()
        (loss + weight * sum(kept)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), given.clip)
        optimiser.step()
    run = {"mechanism": name, "how": how, "loss": evaluate(model, book, LENGTH, given.tests)["loss"]}
    return run | _used(model, merges) if merges else run


def _used(model: DecoderLM, merges: Sequence[MoH]) -> dict[str, float]:
    """How unevenly heads are used: by all tokens, and by kinds of characters (vowels, other letters, the rest)."""
    from regard.bench.text import read

    letters = sorted(set(read().content))
    kinds = torch.tensor([0 if c.lower() in "aeiou" else 1 if c.isalpha() else 2 for c in letters])
    ids, _ = task("char_lm").batch(torch.Generator().manual_seed(2**40), 64, LENGTH, held_out=True)
    asked: list[Tensor] = []
    hooks = [
        merge.register_forward_hook(lambda _, args, __, m=merge: asked.append(m.gates(args[1].tokens) > 0))
        for merge in merges
    ]
    with torch.no_grad():
        model.eval()(ids)
    for hook in hooks:
        hook.remove()
    busy, apart = [], []
    for merge, taken in zip(merges, asked, strict=True):
        routed = taken[..., merge.shared :].double()
        busy.append(routed.mean((0, 1)).max().item() * merge.routed / merge.active)
        of = torch.stack([routed[kinds[ids] == kind].mean(0) for kind in range(3)])
        apart.append(100 * (of.amax(0) - of.amin(0)).max().item())
    return {"busy": max(busy), "apart": max(apart)}


def verdict(rows: Sequence[Row]) -> bool | None:
    """More even with the loss of balance than without, and not worse than all heads."""
    own, plain = pick(rows, OWN, LOSS.format(WITH)), pick(rows, PLAIN, "char_lm, loss")
    near = None
    if own and plain and own.low and own.high and plain.low and plain.high:
        near = True if own.high <= plain.low + SLACK else False if own.low > plain.high + SLACK else None
    return both(above(pick(rows, OWN, BUSY.format(WITHOUT)), pick(rows, OWN, BUSY.format(WITH))), near)


def speed(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """Ratios of medians over `steps` turns; a seed is a repetition of the whole."""
    x, rows = torch.randn(1, QUICK, 128, generator=torch.Generator().manual_seed(0)), []
    cases = [(name, causal) for name in (OWN, HALF) for causal in (False, True)]
    for n, (name, causal) in enumerate(cases):
        torch.manual_seed(0)
        layer, ratios = Attention(128, HEADS, merge=name).eval(), []
        for seed in range(seeds):
            spent: list[list[float]] = [[], []]
            for _ in range(steps + 1):
                for which, own in enumerate(spent):
                    start = time.process_time()
                    _answer(layer, x, causal, bool(which))
                    own.append(time.process_time() - start)
            ratios.append(statistics.median(spent[1][1:]) / statistics.median(spent[0][1:]))
            progress(f"{name}, repetition {seed}", (n + (seed + 1) / seeds) / len(cases))
        what = ORDERED if causal else SPEED
        rows.append(Row(name, what, statistics.fmean(ratios), min(ratios), max(ratios), "x"))
    return rows


@torch.no_grad()
def _answer(layer: Attention, x: Tensor, causal: bool, gathered: bool) -> None:
    call = Call(tokens=x, memory=x, causal=causal)
    q, k, v = layer.projection(call)
    call = call.with_(q=q)
    if gathered:
        assert isinstance(layer.merge, MoH)
        layer.merge.gathered(q, k, v, call)
    else:
        layer.merge(layer.mixer(q, k, v, call), call)


def faster(rows: Sequence[Row]) -> bool | None:
    """Half of the heads take less time than all."""
    row = pick(rows, HALF, SPEED)
    if row is None or row.high is None or row.low is None:
        return None
    return True if row.high < 1 else False if row.low > 1 else None


STUDIES = (
    Study(
        name="moh_balance",
        entry="moh",
        claim="The loss of balance makes tokens use the routed heads evenly, and three heads in four then model text "
        "as well as all of them.",
        setting=f"2 layers of width 64 with {HEADS} heads, 4 of them shared and 2 of 4 routed, characters of a book, "
        f"{LENGTH} tokens; the loss of balance times {WEIGHT}",
        rule="The busiest head's interval with the loss of balance lies below that without it, and the loss of text "
        f"with it ends at most {SLACK} nats above the start of softmax's.",
        steps=250,
        seeds=3,
        measure=measure,
        verdict=verdict,
    ),
    Study(
        name="moh_gathered",
        entry="moh",
        claim="Attention of the selected heads alone takes less time than that of all heads.",
        setting=f"one layer of width 128 with {HEADS} heads, float32, without gradients; the range of three "
        "repetitions; routers at their initial weights",
        rule="With half of the heads in use every repetition takes less time than with all, where tokens see both "
        "sides.",
        steps=7,
        seeds=3,
        measure=speed,
        verdict=faster,
    ),
)
