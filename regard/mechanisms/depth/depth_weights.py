"""Learned weights over the layers that are the same for every token."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.across import Depth, wide


class StaticDepthWeights(Depth):
    """Each sub-layer reads a sum of all states before it, with weights of its own that know nothing of the token.

    `kind="elc"` (every layer counts) takes a convex combination, equal weights at the start; `"dense"` (DenseFormer)
    takes any weights, 1 for the latest state and 0 for the others at the start, which is the plain residual.

    Shapes: sources [B, N, S, dim], the states h + f(h), to what is read after each [B, N, S, dim]; `layers` is at most
    how many, the input counted.
    Raises: ValueError where `layers` is below 1 or `kind` is unknown.
    Source: "DenseFormer: Enhancing Information Flow in Transformers via Depth Weighted Averaging", 2402.02622; "Not
    all layers are equally as important: Every Layer Counts BERT", 2311.02265.
    Differs from the paper: both read the states h + f(h) after each sub-layer, where ELC-BERT has no residual besides
    and DenseFormer reads after whole blocks.
    """

    spec: ClassVar[Spec] = Spec(
        id="depth_weights",
        slot="depth",
        source=Source(
            "DenseFormer: Enhancing Information Flow in Transformers via Depth Weighted Averaging", "2402.02622"
        ),
        what="Each sub-layer reads a sum of all states before it, weighted alike for every token.",
        formula="read_s = sum_{j <= s} a_sj h_j\n"
        "elc: a_s = softmax(w_s),  w = 0 at the start;  dense: a = w,  the identity at the start",
        bidirectional=False,
        gqa=False,
        cost=Cost(time=2, state=1),
        limits=(Limit("latest_source"), Limit("mean_of_sources", kind="elc")),
        variants=({"kind": "elc"},),
        entry="residual_duality",
    )
    feeds = "states"

    def __init__(self, dim: int, *, layers: int = 64, kind: str = "dense") -> None:
        super().__init__()
        self.dim, self.layers, self.kind = dim, layers, kind
        self.at_least(layers=1)
        self.one_of("kind", ("dense", "elc"))
        self.weight = nn.Parameter(torch.eye(layers) if kind == "dense" else torch.zeros(layers, layers))

    def weights(self, sources: int) -> Tensor:
        """The weights [S, S]: row s those that are read after source s; rows of "elc" sum to 1."""
        held = self.weight[:sources, :sources]
        held = held.to(wide(held))
        later = torch.ones_like(held, dtype=torch.bool).triu(1)
        if self.kind == "dense":
            return held.masked_fill(later, 0.0)
        return held.masked_fill(later, -torch.inf).softmax(-1)

    def read(self, sources: Tensor) -> Tensor:
        return (self.weights(sources.shape[2]) @ sources.to(wide(sources))).to(sources.dtype)

    def advance(self, inner: Tensor | None, source: Tensor, at: int) -> tuple[Tensor, Tensor]:
        new = source[:, :, None]
        held = new if inner is None else torch.cat([inner, new], 2)
        return (self.weights(at + 1)[-1] @ held.to(wide(held))).to(source.dtype), held
