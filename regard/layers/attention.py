"""The attention layer: four slots between tokens and tokens."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from regard.caches import Held, beside
from regard.core import Cost, Source, Spec
from regard.errors import RegardError, Unsupported
from regard.layers.create import Named, build, parse
from regard.mechanisms import Call, Layer, Merge, Mixer, Position, Projection, Slot
from regard.mechanisms.slot import allow, divide

SLOTS: dict[str, type[Slot]] = {"projection": Projection, "position": Position, "mixer": Mixer, "merge": Merge}


@dataclass(frozen=True, eq=False)
class State:
    """What the layer keeps between steps: the mixer's state, or what the projection keeps; and its latest inputs.

    Shapes: before [B, n, C], at [B|1, n]: the latest real inputs and their positions, -1 where a row had fewer.
    """

    kept: Any
    before: Tensor | None = None
    at: Tensor | None = None


class Attention(Layer):
    """Tokens to queries, keys and values (projection), where they are (position), who reads whom (mixer), and back
    to tokens (merge).

    Each slot is a name such as `"gqa"` or `"gqa:kv_heads=2"`, or a module. `cache` is what decoding keeps: every token,
    or `Held(size=..., sinks=...)`.

    Shapes: tokens [B, N, dim] to [B, N, dim].
    Raises: ShapeError, ValueError where sizes do not fit; RegardError for an unknown name; Unsupported where two slots
    do not go together.
    """

    spec: ClassVar[Spec] = Spec(
        id="attention",
        slot="layer",
        source=Source("Attention Is All You Need", "1706.03762", "section 3.2"),
        what="The layer with four slots.",
        cost=Cost(time=2, state=1),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        projection: str | Named | Projection = "mha",
        position: str | Named | Position = "none",
        mixer: str | Named | Mixer = "softmax",
        merge: str | Named | Merge = "concat",
        cache: Held | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.cache = dim, heads, Held() if cache is None else cache
        sizes = {"dim": dim, "heads": heads, "head_dim": divide("Attention", dim, heads)}
        self.projection: Projection = _fill("projection", projection, sizes)
        p = self.projection
        sizes |= {"heads": p.heads, "kv_heads": p.kv_heads, "head_dim": p.head_dim, "value_dim": p.value_dim}
        self.position: Position = _fill("position", position, sizes)
        self.mixer: Mixer = _fill("mixer", mixer, sizes)
        self.merge: Merge = _fill("merge", merge, sizes)
        self.position.width(len(range(*p.rotary.indices(p.head_dim))))
        for part in (self.position, self.mixer):
            if p.kv_heads != p.heads and not part.spec.gqa:
                raise Unsupported(
                    f"{type(part).__name__} needs as many key heads as query heads, and {type(p).__name__} makes "
                    f"{p.kv_heads} for {p.heads}. Type projection='mha', or kv_heads={p.heads}."
                )
        if self.position.spec.scores and not self.mixer.spec.scores:
            raise Unsupported(
                f"{type(self.position).__name__} edits scores and {type(self.mixer).__name__} has none to edit. Type "
                "position='rope', or another mixer."
            )

    @property
    def parts(self) -> tuple[Projection, Position, Mixer, Merge]:
        """The four slots, in the order that tokens pass them."""
        return self.projection, self.position, self.mixer, self.merge

    def with_slots(self, **slots: str | Named | Slot) -> Attention:
        """Another layer with these slots in place of its own, which goes on from this one's weights.

        Parameters keep their values where the part in the same slot has one of the same name and shape; the others
        start as the part starts them. Slots that are not named are copies.

        Raises: RegardError for a slot that does not exist, and as the layer itself does.
        """
        if unknown := set(slots) - set(SLOTS):
            raise RegardError(f"There is no slot {', '.join(sorted(unknown))}; slots are {', '.join(SLOTS)}.")
        own = {slot: copy.deepcopy(getattr(self, slot)) for slot in SLOTS}
        made = Attention(self.dim, self.heads, cache=self.cache, **{**own, **slots})  # type: ignore[arg-type]
        like = next(self.parameters(), None)
        if like is not None:
            made = made.to(like.device, like.dtype)
        known = self.state_dict()
        for name, value in made.state_dict().items():
            if name in known and known[name].shape == value.shape:
                value.copy_(known[name])
        return made.train(self.training)

    @property
    def halts(self) -> list[str]:
        found = [type(part).__name__ for part in self.parts if not part.spec.decode]
        if self.position.spec.scores and not self.mixer.stepped:  # a state of the mixer's own has no place for edits
            found.append(f"{type(self.mixer).__name__} with {type(self.position).__name__}")
        return found

    def allow(self, call: Call) -> None:
        for part in self.parts:
            allow(part.spec, call, type(part).__name__)

    def attend(self, call: Call) -> Tensor:
        N, M = call.tokens.shape[1], call.memory.shape[1]
        call = self._embedded(call)
        q, k, v = self.projection(call)
        call = call.with_(q=q)
        own = call.q_positions if call.documents is None else _within(call, N)
        other = call.k_positions if call.documents is None else own
        q, k = self._turned(q, own, N, M - N), self._turned(k, other, M, 0)
        return self.merge(self.mixer(q, k, v, self._edited(q, k, call)), call)

    def begin(self, batch: int) -> State:
        return State(self.cache if self._latent else self.mixer.init_state(batch, self.cache))

    def advance(self, inner: State, call: Call) -> tuple[Tensor, State]:
        call = self._embedded(call).with_(before=inner.before, before_positions=inner.at)
        p, n = self.projection, call.tokens.shape[1]
        q, kept = p.queries(call.tokens, call), p.keep(call.memory, call)
        call = call.with_(q=q)
        q = self._turned(q, call.q_positions, n, 0)
        if self._latent:
            held = inner.kept.append(kept, call.k_at(n))
            k, v = p.expand(held.parts)
            after = call.with_(k_positions=held.positions)
            k = self._turned(k, held.positions, k.shape[2], 0)
            out, state = self.mixer(q, k, v, self._edited(q, k, after)), held
        else:
            k, v = p.expand(kept)
            k = self._turned(k, call.k_positions, n, 0)
            if self.mixer.stepped:
                state = inner.kept.append((k, v), call.k_at(n))
                k, v = state.parts
                after = call.with_(k_positions=state.positions)
                out = self.mixer(q, k, v, self._edited(q, k, after))
            else:
                self.mixer.check(q, k, v, call)
                out, state = self.mixer.step(inner.kept, q, k, v, call)
        return self.merge(out, call), State(state, *self._history(inner, call))

    @property
    def _latent(self) -> bool:
        return self.projection.latent and self.mixer.stepped

    def _history(self, inner: State, call: Call) -> tuple[Tensor | None, Tensor | None]:
        """The latest real inputs of each row, as many as the projection reads, and their positions."""
        if not self.projection.history:
            return None, None
        inputs, at = call.tokens, call.q_at(call.tokens.shape[1], call.tokens.shape[1])
        if inner.before is not None and inner.at is not None:
            inputs, at = torch.cat([inner.before, inputs], 1), beside(inner.at, at)
        if bool((at < 0).any()):  # padding goes in front, so that the latest are real
            at = at.expand(inputs.shape[0], -1)
            order = (at >= 0).to(torch.int8).argsort(dim=1, stable=True)
            inputs, at = inputs.take_along_dim(order[..., None], 1), at.gather(1, order)
        return inputs[:, -self.projection.history :], at[:, -self.projection.history :]

    def _embedded(self, call: Call) -> Call:
        if type(self.position).embed is Position.embed:
            return call
        N, M = call.tokens.shape[1], call.memory.shape[1]
        at = call.q_at(N, M) if call.documents is None else _within(call, N)
        tokens = self.position.embed(call.tokens, at)
        memory = self.position.embed(call.memory, call.k_at(M)) if call.cross else tokens
        return call.with_(tokens=tokens, memory=memory)

    def _turned(self, x: Tensor, positions: Tensor | None, length: int, first: int) -> Tensor:
        if type(self.position).turn is Position.turn:
            return x
        if positions is None:
            positions = torch.arange(first, first + length, device=x.device)[None]
        part = self.projection.rotary
        if part == slice(None):
            return self.position.turn(x, positions)
        turned = x.clone()
        turned[..., part] = self.position.turn(x[..., part], positions)
        return turned

    def _edited(self, q: Tensor, k: Tensor, call: Call) -> Call:
        edits = self.position.edits(q, k, call)
        return call.with_(edits=edits) if edits else call


def _within(call: Call, N: int) -> Tensor:
    """Positions [B|1, N] counted from the first token of each one's document, -1 for padding."""
    at = call.q_at(N, N)
    return torch.where(at < 0, -1, at - call.starts)


def _fill(slot: str, given: object, sizes: dict[str, int]) -> Any:
    """The module for one slot, from a name, a name with settings, or a module.

    Raises: RegardError where it belongs into another slot.
    """
    if isinstance(given, SLOTS[slot]):
        return given
    if isinstance(given, str):
        given = parse(given)
    if not isinstance(given, Named):
        raise RegardError(f"{slot} must be a name or a {SLOTS[slot].__name__}; got {type(given).__name__}.")
    if given.kind.spec.slot != slot:
        raise RegardError(
            f"{given.kind.spec.id!r} is a {given.kind.spec.slot}, not a {slot}. Type {given.kind.spec.slot}="
            f"{given.kind.spec.id!r}."
        )
    return build(given.kind, given.settings, sizes)
