"""The noise floor: how far two trainings of the same exact attention end apart."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from torch import Tensor

from regard.bench.train.entrant import Entrant, entrants
from regard.core import Cost, Source, Spec
from regard.layers import Attention
from regard.mechanisms import Call, Mixer
from regard.ops import attend

EXACT = "softmax"
TWIN = "softmax through the reference engine"


class Reference(Mixer):
    """Softmax attention by the reference engine: the mathematics of `softmax`, rounded in another order.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E].
    """

    spec: ClassVar[Spec] = Spec(
        id="softmax_reference",
        slot="mixer",
        source=Source("Attention Is All You Need", "1706.03762", "section 3.2.1"),
        what="Softmax attention by the reference engine.",
        cross=True,
        scores=True,
        cost=Cost(time=2, state=1),
    )

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return attend(
            q,
            k,
            v,
            where=call.where,
            edits=call.edits,
            q_positions=call.q_positions,
            k_positions=call.k_positions,
            engine="reference",
        )


def pair(position: str | None) -> list[Entrant]:
    """Softmax twice, through the engine that is chosen for it and through the reference."""
    exact = entrants([EXACT], position)[0]

    def twin(dim: int, heads: int) -> Attention:
        layer = exact.layer(dim, heads)
        assert isinstance(layer, Attention)
        place = layer.position
        return Attention(dim, heads, projection=layer.projection, position=place, mixer=Reference(), merge=layer.merge)

    return [exact, Entrant(TWIN, twin)]


def floor(runs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The largest difference of the final metric over the seeds that both engines were trained from.

    `value` is None where there is no such seed.
    """
    ends = {(run["mechanism"], run["seed"]): run["metric"] for run in runs if run["metric"] is not None}
    seeds = [seed for label, seed in ends if label == EXACT and (TWIN, seed) in ends]
    differences = [abs(ends[EXACT, seed] - ends[TWIN, seed]) for seed in seeds]
    return {"value": max(differences) if differences else None, "seeds": seeds, "differences": differences}


def tell(a: Mapping[str, Any], b: Mapping[str, Any], least: float | None) -> str:
    """Why two rows can't be ranked; empty where they can: beyond the floor, and with intervals apart."""
    ends = (a["metric"], b["metric"], *(a["interval"] or (None,)), *(b["interval"] or (None,)))
    if least is None:
        return "no noise floor was measured"
    if None in ends:
        return "one seed gives no interval" if None not in ends[:2] else "one of them has no final figure"
    if not math.fabs(a["metric"] - b["metric"]) > least:
        return f"they differ by {math.fabs(a['metric'] - b['metric']):.3g}, no more than the noise floor {least:.3g}"
    if a["interval"][0] <= b["interval"][1] and b["interval"][0] <= a["interval"][1]:
        return "their intervals overlap"
    return ""
