"""What the comparison looks at from inside: one layer's queries and keys, and a picture of one head's weights."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.errors import Unsupported
from regard.hf import Intervention, Site, Sites
from regard.ops import Rows


class Keep(Intervention):
    """Keeps one layer's site, queries, keys and values of the last forward pass."""

    def __init__(self, layer: int) -> None:
        self.sites = Sites(layers=(layer,))
        self.kept: Sample | None = None

    def inputs(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> None:
        with contextlib.suppress(Unsupported):
            # A site finds out how its model rotates while the model runs, and remembers it.
            site.rotate(q[:, :, :1], torch.zeros(1, dtype=torch.int64, device=q.device))
        self.kept = Sample(site, q, k, v)


@dataclass(frozen=True, eq=False)
class Sample:
    """One call of one attention layer: its site, q [B, H, N, D], k [B, G, M, D], v [B, G, M, E]."""

    site: Site
    q: Tensor
    k: Tensor
    v: Tensor

    def first(self, length: int) -> Sample:
        """The same call on the first `length` tokens alone."""
        site = replace(self.site, N=length, M=length, record=None)
        return Sample(site, *(t[:, :, :length].contiguous() for t in (self.q, self.k, self.v)))


class Picture(Intervention):
    """A down-sampled map of one head's attention weights: the largest weight in each square."""

    def __init__(self, layer: int, head: int, size: int = 64) -> None:
        self.sites = Sites(layers=(layer,))
        self.layer, self.head, self.size = layer, head, size
        self.rows: list[Tensor] = []
        self.tokens = 0

    def weights(self, site: Site, rows: Rows) -> None:
        if site.phase != "prefill":
            return
        found = rows.weights[0, self.head].float()
        self.tokens = site.M
        self.rows.append(F.pad(found, (rows.first, site.M - rows.first - found.shape[1])))

    def map(self) -> dict[str, object]:
        """The map as lists: the square root of the weights, so that faint ones are seen."""
        whole = torch.cat(self.rows)[None]
        size = min(self.size, whole.shape[-1])
        squares = F.adaptive_max_pool2d(whole, (size, size))[0].sqrt()
        weights = [[round(x, 3) for x in row] for row in squares.tolist()]
        return {"layer": self.layer, "head": self.head, "tokens": self.tokens, "weights": weights}
