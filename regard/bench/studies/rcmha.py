"""Convolutions and relative distances, apart and together."""

from __future__ import annotations

from collections.abc import Sequence

from regard.bench.studies.losses import WHAT
from regard.bench.studies.study import Progress, Row, Study, above, both, over_seeds, pick, trained

MHA, MDHA = "rcmha:kernel=none,encoding=absolute", "rcmha:encoding=absolute"
RMHA, RCMHA = "rcmha:kernel=none", "rcmha"
LENGTH = 64
MEMORY = "memory of a training step over MHA's"


def measure(steps: int, seeds: int, progress: Progress) -> list[Row]:
    """The loss of the four, and the memory that each one's layer keeps for the backward pass."""
    runs = trained("char_lm", (MHA, MDHA, RMHA, RCMHA), steps, seeds, progress, length=LENGTH, tests=128)
    rows = over_seeds(runs, WHAT, "nats", lambda run: run["metric"])
    base = _saved(MHA)
    return rows + [Row(name, MEMORY, _saved(name) / base, None, None, "x") for name in (MHA, MDHA, RMHA, RCMHA)]


def verdict(rows: Sequence[Row]) -> bool | None:
    """Both is better than distances alone, and these than neither."""
    of = {name: pick(rows, name, WHAT) for name in (MHA, RMHA, RCMHA)}
    return both(above(of[RMHA], of[RCMHA]), above(of[MHA], of[RMHA]))


def _saved(text: str, length: int = 256) -> float:
    """Bytes of activations that one layer saves for its backward pass, each storage once."""
    import torch

    from regard.layers.create import build, parse

    named = parse(text)
    layer = build(named.kind, named.settings, {"dim": 64, "heads": 4})
    own = {p.untyped_storage().data_ptr() for p in layer.parameters()}
    held: dict[int, torch.Tensor] = {}  # kept, so that no address is used twice

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in own:
            held[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        layer(torch.randn(1, length, 64, generator=torch.Generator().manual_seed(0)), causal=True)
    return float(sum(x.untyped_storage().nbytes() for x in held.values()))


STUDY = Study(
    name="rcmha",
    entry="rcmha",
    claim="Convolved queries, keys and values with relative distances model text better than either alone or neither.",
    setting=f"2 layers of width 64, characters of a book, {LENGTH} tokens; memory is what a layer saves for its "
    "backward pass at 256 tokens",
    rule="rcmha's interval lies below that of kernel=none (RMHA), and that below MHA's, which adds encoding=absolute.",
    steps=300,
    seeds=3,
    measure=measure,
    verdict=verdict,
)
