"""One call of the attention interface, served by `attend` under the interventions of a run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor

from regard.edits import Bias, Edit, Normaliser, Softcap, SoftmaxWithSinks, softmax
from regard.errors import Unsupported
from regard.hf.frame import Frame, Shape, frame
from regard.hf.meter import Record
from regard.hf.pairs import pairs, pairs_of_all
from regard.hf.passed import Passed
from regard.hf.select import Phase
from regard.hf.site import Site
from regard.masks import Mask, causal, everything
from regard.ops import Engine, Problem, Rows, View
from regard.ops.choose import ENGINES, choose
from regard.ops.problem import problem
from regard.ops.sdpa import plain

if TYPE_CHECKING:
    from regard.hf.run import Run


_CAUSAL = causal()


@dataclass(frozen=True)
class Own:
    """What the model itself does to scores in one call."""

    scale: float | None
    causal: bool
    softcap: float | None
    sinks: Tensor | None
    bias: Tensor | None

    def edits(self, base: Frame) -> tuple[Edit, ...]:
        """The model's own edits, in its order."""
        if self.softcap is None and self.bias is None and base.edit is None:
            return ()
        found: list[Edit] = []
        if self.softcap is not None:
            found.append(Softcap(self.softcap))
        if self.bias is not None:
            found.append(Bias(self.bias))
        if base.edit is not None:
            found.append(base.edit)
        return tuple(found)

    @property
    def normaliser(self) -> Normaliser:
        """Softmax, or softmax with the model's sink logits."""
        return softmax if self.sinks is None else SoftmaxWithSinks(self.sinks)


@dataclass
class Plan:
    """What is handed to `attend`."""

    where: Mask
    q_positions: Tensor | None
    k_positions: Tensor | None
    edits: tuple[Edit, ...] = ()
    views: tuple[View, ...] = ()
    reader: Callable[[Rows], Tensor | None] | None = None

    @property
    def natural(self) -> bool:
        """Whether keys are at 0 .. M-1 and the queries are the last N."""
        return self.q_positions is None and self.k_positions is None


def serve(
    run: Run, place: Site, given: Passed, q: Tensor, k: Tensor, v: Tensor, mask: object, own: Own
) -> tuple[Tensor, Tensor | None]:
    """The heads' outputs [B, N, H, E], and attention weights [B, H, N, M] where the run wants them."""
    shape = _shape(given, q, k, own.causal)
    if own.bias is not None and given.layer is not None and given.layer.held.evicts and shape.kind == "self":
        raise Unsupported(
            f"{place.name}: the model adds a bias by distance, which it works out for keys that are all there; a cache "
            "that lets tokens go can't serve it."
        )
    phase: Phase = "decode" if shape.N == 1 and shape.seen > 0 else "prefill"
    base = frame(mask, shape, run.frames)
    stations = run.stations(place, phase, shape.kind)
    record = run.meter.record(place.index, place.name, place.layer, phase, shape.H) if run.meter.on else None
    if stations.idle and not run.want_weights:
        plan, site, written = _plain(base, own, shape), None, None
    else:
        written = _Weights(q, k) if run.want_weights else None
        site = _site(run, place, given, q, k, v, base, shape, own, phase, record)
        q, k, v = stations.edit_inputs(site, q, k, v)
        where = stations.mask(site, q, k, base)
        edits = (*own.edits(base), *stations.edits(site, q))
        views = tuple(stations.seen_from(site, q, k))
        plan = Plan(
            where, base.q, base.k, edits, views, stations.reader(site, None if written is None else written.add)
        )
    visible = _decode_shortcut(plan, base, shape)
    engine, p = _engine(run, plan, own, q, k, v)
    out = engine.run(p)
    assert isinstance(out, Tensor)
    if record is not None:
        _count(record, base, plan, shape, visible, engine, k.shape[-1] + v.shape[-1])
    if site is not None:
        out = stations.edit_heads(site, out)
    return out.transpose(1, 2).contiguous(), None if written is None else written.whole


def _engine(run: Run, plan: Plan, own: Own, q: Tensor, k: Tensor, v: Tensor) -> tuple[Engine, Problem]:
    if run.engine == "auto" and plan.natural and not (plan.edits or plan.views or plan.reader) and own.sinks is None:
        scale = q.shape[-1] ** -0.5 if own.scale is None else float(own.scale)
        p = Problem(q, k, v, plan.where, (), scale, softmax, None, None, (), None, False)
        if plain(p) is not None:
            return ENGINES["sdpa"], p  # the untouched model's own path, without weighing engines in every layer
    p = problem(
        q, k, v, plan.where, plan.edits, own.scale, own.normaliser, plan.q_positions, plan.k_positions, plan.views,
        plan.reader, False,
    )  # fmt: skip
    return choose(p, run.engine), p


def _shape(given: Passed, q: Tensor, k: Tensor, causal: bool) -> Shape:
    (B, H, N, _), M = q.shape, k.shape[2]
    kept = None if given.layer is None or given.kind == "cross" else given.layer.kept
    if given.layer is not None and kept is None:
        raise Unsupported("This layer reads another layer's keys, so its cache can't be replaced by an intervention's.")
    kind = "cross" if kept is None and given.cache is None and N != M else given.kind
    return Shape(B, H, N, M, kind, given.seen, causal, kept, q.device)


def _plain(base: Frame, own: Own, shape: Shape) -> Plan:
    """The call with nothing but the model's own features."""
    dense = base.where is everything and base.real and shape.N <= shape.M
    q, k = (None, None) if dense else (base.q, base.k)
    return Plan(base.where, q, k, own.edits(base))


def _site(
    run: Run, place: Site, given: Passed, q: Tensor, k: Tensor, v: Tensor, base: Frame, shape: Shape, own: Own,
    phase: Phase, record: Record | None,
) -> Site:  # fmt: skip
    return replace(
        place,
        kind=shape.kind,
        phase=phase,
        heads=shape.H,
        groups=k.shape[1],
        width=q.shape[3],
        value_width=v.shape[3],
        scale=q.shape[3] ** -0.5 if own.scale is None else float(own.scale),
        base=base.where,
        N=shape.N,
        M=shape.M,
        q_given=base.q,
        k_given=base.k,
        device=shape.device,
        record=record,
        rotation=run.rope.rotation(place.index, place.name, place.module, given),
    )


def _decode_shortcut(plan: Plan, base: Frame, shape: Shape) -> Tensor | None:
    """For one query, evaluate the mask at once: often it shows every key there is, and then no engine needs it.

    Gives the pairs seen by each head, where that was counted.
    """
    if shape.N != 1 or (plan.natural and (plan.where is everything or plan.where == _CAUSAL)):
        return None
    where = plan.where
    if where not in base.shown:
        seen = where.dense(
            1, shape.M, batch=shape.B, heads=shape.H, q_positions=plan.q_positions, k_positions=plan.k_positions,
            device=shape.device,
        )  # fmt: skip
        counts = seen.sum((2, 3))
        base.counts[where] = counts.sum(0).double() * (shape.B // seen.shape[0])
        # Elsewhere than on the CPU, looking at the result would wait for the device.
        base.shown[where] = shape.device.type == "cpu" and bool((counts == shape.M).all())
    if base.shown[where] and not (plan.edits or plan.views or plan.reader):
        plan.where, plan.q_positions, plan.k_positions = everything, None, None
    return base.counts[where]


def _count(
    record: Record, base: Frame, plan: Plan, shape: Shape, visible: Tensor | None, engine: Engine, widths: int
) -> None:
    if visible is None:
        visible = _pairs(base, plan.where, plan.q_positions, plan.k_positions, shape)
    if shape.kept is not None and base.q is not None:
        # Against what the model would look at had nothing gone. With padding, a row has fewer keys than `seen`; those
        # beyond its own queries are never allowed by a causal mask, which is all that a cache serves.
        allowed = pairs_of_all(base.where, shape.B, shape.H, base.q, shape.seen + shape.N)
    elif plan.where is base.where:
        allowed = visible
    else:
        allowed = _pairs(base, base.where, base.q, base.k, shape)
    record.add(visible, allowed, widths, engine.name)


def _pairs(base: Frame, mask: Mask, q: Tensor | None, k: Tensor | None, shape: Shape) -> Tensor:
    if mask not in base.counts:
        base.counts[mask] = pairs(mask, shape.B, shape.H, shape.N, shape.M, q, k, shape.device)
    return base.counts[mask]


class _Weights:
    """Rows of attention weights put together, for a model that is asked for them."""

    def __init__(self, q: Tensor, k: Tensor) -> None:
        self.whole = q.new_zeros(*q.shape[:3], k.shape[2])

    def add(self, rows: Rows) -> None:
        n, m = rows.weights.shape[2:]
        block = rows.weights.detach().to(self.whole.dtype)
        self.whole[:, :, rows.start : rows.start + n, rows.first : rows.first + m] = block
