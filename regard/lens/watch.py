"""The indicators of every layer of a model, while it reads a text."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.backbones import DecoderLM
from regard.errors import ShapeError, Unsupported
from regard.hf import Intervention, Site, Sites
from regard.lens.indicators import Indicators
from regard.lens.read import Watch
from regard.lens.tally import Tally
from regard.ops import Rows


@torch.no_grad()
def watch(model: nn.Module, ids: Tensor, padding: Tensor | None = None) -> list[Indicators | None]:
    """The indicators of each layer of a `DecoderLM`, or of a causal transformers model through `regard.apply`.

    No map is held whole: a block of queries at a time, or of keys, with all heads. A layer of a `DecoderLM` that has no
    weights, such as one that mixes nothing, gives None.

    Shapes: ids whole numbers [B, N]; padding boolean [B, N], True = real.
    Raises: ShapeError where they do not fit; Unsupported where a model can't be watched or is not causal.
    """
    if ids.dim() != 2 or (padding is not None and padding.shape != ids.shape):
        raise ShapeError(f"watch takes ids [B, N] and padding of the same shape; got {list(ids.shape)}.")
    real = torch.ones_like(ids, dtype=torch.bool) if padding is None else padding.bool()
    lengths = real.sum(1)
    if not bool(lengths.all()):
        raise ShapeError("watch needs at least one real token in every row; a row is nothing but padding.")
    if isinstance(model, DecoderLM):
        return _ours(model, ids, real, lengths)
    from regard.hf import apply  # needs transformers, which a DecoderLM does not

    observer = Observer()
    with apply(model, observer, meter=False):
        model(input_ids=ids, attention_mask=real.long(), use_cache=False)
    return [observer.tallies[index].told(lengths) for index in sorted(observer.tallies)]


class Observer(Intervention):
    """Adds up the indicators of each site, by its index, from blocks of rows of weights; it changes nothing."""

    sites = Sites(kind="self", phase="prefill")

    def __init__(self) -> None:
        self.tallies: dict[int, Tally] = {}

    def weights(self, site: Site, rows: Rows) -> None:
        if site.k_positions.dim() == 3:
            raise Unsupported(f"{site.name}: heads keep different keys, so that their maps can't be compared.")
        n, m = rows.weights.shape[2:]
        i = site.q_positions[:, rows.start : rows.start + n]
        j = site.k_positions[:, rows.first : rows.first + m]
        self.tallies.setdefault(site.index, Tally()).add(rows.weights, i, j)


def _ours(model: DecoderLM, ids: Tensor, real: Tensor, lengths: Tensor) -> list[Indicators | None]:
    watched = [Watch(layer) for layer in model.layers]
    try:
        model(ids, real)
    finally:
        for one in watched:
            one.stop()
    places = torch.where(real, real.cumsum(1) - 1, -1)
    told: list[Indicators | None] = []
    for one in watched:
        tally = Tally()
        if one.seen is not None:
            for columns, first in one.seen.columns():
                tally.add(columns, places, places[:, first : first + columns.shape[-1]])
        told.append(None if one.seen is None else tally.told(lengths))
    return told
