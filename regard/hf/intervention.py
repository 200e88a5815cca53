"""The six stations at which a pretrained model's attention can be changed or watched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

from regard.caches import CacheLayer
from regard.core import Spec
from regard.edits import Edit
from regard.hf.select import Sites, everywhere
from regard.masks import Mask
from regard.ops import Rows, View

if TYPE_CHECKING:
    from regard.hf.site import Site


class Intervention:
    """Something done to attention, or only seen of it, at the stations that a subclass overrides.

    Shapes: q [B, H, N, D], k [B, G, M, D], v [B, G, M, E] after the model's own position embedding; k and v hold the
    cached keys too. An instance may be used for one model at a time.
    """

    sites: Sites = everywhere
    spec: ClassVar[Spec | None] = None

    @property
    def name(self) -> str:
        """What messages call it."""
        return self.spec.id if self.spec is not None else type(self).__name__

    def inputs(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor] | None:
        """Replace q, k and v before anything is scored; None leaves them. Not restricted by `sites.heads`."""

    def views(self, site: Site, q: Tensor, k: Tensor) -> Sequence[View]:
        """Pairs to be scored with another q or k, such as ones turned to other positions."""
        return ()

    def where(self, site: Site, q: Tensor, k: Tensor) -> Mask | None:
        """Pairs that are looked at, out of those that the model allows; None for all of them."""

    def scores(self, site: Site) -> Edit | Sequence[Edit] | None:
        """Edits of the scaled scores, after the model's own."""

    def weights(self, site: Site, rows: Rows) -> Tensor | None:
        """See complete rows of attention weights, a block of queries at a time; a returned tensor replaces them."""

    def heads(self, site: Site, out: Tensor) -> Tensor | None:
        """See or replace the heads' outputs [B, H, N, E] before they are projected."""

    def cache(self, site: Site) -> CacheLayer | None:
        """What this site keeps of keys and values; asked once for every cache, before its first token."""

    def check(self, model: nn.Module) -> list[str]:
        """Reasons why this model can't be served; empty where it can."""
        return []


def overrides(intervention: Intervention, station: str) -> bool:
    """Whether an intervention does something at a station."""
    return getattr(type(intervention), station) is not getattr(Intervention, station)
