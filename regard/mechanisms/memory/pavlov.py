"""An associative memory that is written by a learning rule: attention as conditioning."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer
from regard.ops import Memory, recur

RULES = ("hebb", "decay", "delta", "oja", "bcm")


class AssociativeMemory(Mixer):
    """Keys are conditional stimuli, values unconditional ones, and a query tests what has been learned of the two.

    `rule` says how a pair is written: "hebb" adds it, "decay" lets `stays` of what is there stay, "delta" (Rescorla and
    Wagner) writes what was not expected, "oja" keeps what it writes normalised, and "bcm" writes by how much the
    response exceeds its running mean square. `rate` is how strongly. Keys and queries are brought to length 1, and by
    the last two rules values are too.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E].
    Raises: ValueError for another rule, or a rate or share out of range.
    Source: "Understanding Transformers through the Lens of Pavlovian Conditioning", 2508.08289.
    Differs from the paper: its response by "bcm" is here the expected value and the one that came together, since a
    memory that begins empty would expect nothing and write nothing.
    """

    spec: ClassVar[Spec] = Spec(
        id="pavlov",
        slot="mixer",
        source=Source("Understanding Transformers through the Lens of Pavlovian Conditioning", "2508.08289"),
        what="An associative memory that is written by a learning rule, Hebb's or Rescorla and Wagner's.",
        formula="hebb   S = S + r k v^T                 delta  S = S + r k (v - S^T k)^T\n"
        "oja    S = S + r (k v^T - S y y^T)     bcm    S = S + r (|y + v| - mean |y + v|^2) k v^T,   y = S^T k\n"
        "out_t = S_t^T q_t",
        bidirectional=False,
        packing=False,
        cost=Cost(time=1, state=0),
        limits=tuple(Limit("conditioning", rule=rule) for rule in RULES),
        bfloat16=4.0,  # a response is the difference of what was written and what was not expected
        variants=({"rule": "decay", "stays": 0.8}, {"rule": "delta", "rate": 0.5}, {"rule": "oja"}, {"rule": "bcm"}),
    )

    def __init__(self, *, rule: str = "delta", rate: float = 1.0, stays: float = 0.99, mean: float = 0.1) -> None:
        super().__init__()
        self.rule, self.rate, self.stays, self.mean = rule, rate, stays, mean
        self.one_of("rule", RULES)
        if not 0 < rate < 2:
            raise ValueError(f"AssociativeMemory.rate must be above 0 and below 2; got {rate}. Type rate=1.0.")
        for name, value in (("stays", stays), ("mean", mean)):
            if not 0 < value <= 1:
                raise ValueError(f"AssociativeMemory.{name} must be above 0 and at most 1; got {value}.")

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return self.step(None, q, k, v, call)[0]

    def init_state(self, batch: int, held: Held) -> Any:
        return None

    def step(self, state: Any, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Any]:
        q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        real = call.real
        if self.rule in ("oja", "bcm"):
            return self._one_by_one(state, q, k, F.normalize(v, dim=-1), real)
        decay = None
        if self.rule == "decay":
            decay = torch.full((k.shape[1],), self.stays, dtype=torch.float64, device=k.device).log()
        write = "delta" if self.rule == "delta" else "add"
        beta = k.new_full(k.shape[:3], self.rate)
        return recur(q, k, v, decay=decay, write=write, beta=beta, state=state, real=real, keep=True)

    def _one_by_one(
        self, state: tuple[Memory, Tensor] | None, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None
    ) -> tuple[Tensor, tuple[Memory, Tensor]]:
        """The two rules that read what they have written before they write."""
        (B, G, N, D), E = k.shape, v.shape[-1]
        kind, wide = v.dtype, torch.promote_types(v.dtype, torch.float32)
        q, k, v = q.to(wide).unflatten(1, (G, -1)), k.to(wide), v.to(wide)
        S = k.new_zeros(B, G, D, E) if state is None else state[0].values
        usual = k.new_zeros(B, G) if state is None else state[1]
        outs = []
        for t in range(N):
            key, value = k[:, :, t], v[:, :, t]
            y = (key[..., None, :] @ S)[..., 0, :]
            if self.rule == "oja":
                more, typical = key[..., None] * value[..., None, :] - (S @ y[..., None]) * y[..., None, :], usual
            else:
                response = y + value
                strength = response.norm(dim=-1)
                more = (strength - usual)[..., None, None] * key[..., None] * value[..., None, :]
                typical = usual + self.mean * (response.square().sum(-1) - usual)
            after = S + self.rate * more
            if real is not None:
                here = real[:, None, t]
                after, typical = torch.where(here[..., None, None], after, S), torch.where(here, typical, usual)
            S, usual = after, typical
            outs.append(q[:, :, :, t] @ S)
        out = torch.stack(outs, 3).flatten(1, 2).to(kind)
        return out, (Memory(S), usual)
