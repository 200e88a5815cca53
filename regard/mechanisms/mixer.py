"""The third slot: where to look and how to read."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from regard.caches import Held
from regard.errors import ShapeError, Unsupported
from regard.mechanisms.call import Call
from regard.mechanisms.slot import Slot
from regard.mechanisms.state import reordered


class Mixer(Slot):
    """Queries, keys and values to one output per query and head.

    A subclass defines `mix`. Where it claims to decode and `mix` may be given the last N of M positions, the steps
    below do; a mixer with a state of its own overrides both and works on the new tokens alone.
    """

    @final
    def forward(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        """Check the call against the spec, then mix.

        Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E].
        Raises: ShapeError where they do not fit together; Unsupported where the spec does not claim what is asked.
        """
        self.check(q, k, v, call)
        return self.mix(q, k, v, call)

    @final
    def check(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> None:
        """Raise ShapeError or Unsupported where this mixer can't take the call."""
        name = type(self).__name__
        if not (q.dim() == k.dim() == v.dim() == 4):
            got = ", ".join(str(list(t.shape)) for t in (q, k, v))
            raise ShapeError(f"{name} takes q [B, H, N, D], k [B, G, M, D], v [B, G, M, E]; got {got}.")
        H, G = q.shape[1], k.shape[1]
        if q.shape[0] != k.shape[0] or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3] or H % G:
            got = ", ".join(str(list(t.shape)) for t in (q, k, v))
            raise ShapeError(f"{name}: q, k and v must agree in B, D and M, and G must divide H; got {got}.")
        if G != H and not self.spec.gqa:
            raise Unsupported(f"{name} needs as many key heads as query heads; got {H} and {G}. Type kv_heads={H}.")
        self.allow(call)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        """One output per query and head, [B, H, N, E]."""
        raise NotImplementedError

    def init_state(self, batch: int, held: Held) -> Any:
        """The state before the first token; `held` is the layer's choice of what to keep of keys and values."""
        return held

    def step(self, state: Any, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Any]:
        """The outputs for the next tokens, and the state after them; the state that came is left as it was.

        Shapes: q [B, H, n, D]; k [B, G, n, D]; v [B, G, n, E]; `call.q_positions` and `call.k_positions` [B|1, n].
        """
        after = state.append((k, v), call.k_at(k.shape[2]))
        keys, values = after.parts
        return self.mix(q, keys, values, call.with_(k_positions=after.positions)), after

    def reorder(self, state: Any, index: Tensor) -> Any:
        """The state for the batch's rows `index`, which may repeat."""
        return reordered(state, index)

    @property
    def stepped(self) -> bool:
        """Whether decoding is by the steps of this class, over held keys and values."""
        return type(self).step is Mixer.step
