"""Multi-head latent attention: keys and values come from one small latent per token."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.projection import Projection, split, start
from regard.mechanisms.slot import divide


class MLA(Projection):
    """Keys and values of all heads are made from one normalised latent per token, which is all that decoding keeps.

    `placement="decoupled"` gives every head `rope_dim` more features for the position alone: its query has its own,
    the key's are shared by the heads and kept beside the latent. `"full"` has none, and a position turns every feature
    of keys that are made from the latent. Queries have a latent too where `q_rank` is given.

    By default a head has dim / heads features and half as many (an even number) for the position, and the latent four
    heads' width, but no more than `dim`.

    Shapes: tokens [B, N, dim] to q, k [B, heads, N, nope_dim + rope_dim], v [B, heads, N, v_dim]; kept per token:
    kv_rank + rope_dim numbers.
    Raises: ShapeError where `dim` is not a multiple of `heads` and a size is left out, or `rope_dim` is odd; ValueError
    for a setting out of range.
    Source: "DeepSeek-V2", 2405.04434, section 2.1.
    """

    spec: ClassVar[Spec] = Spec(
        id="mla",
        slot="projection",
        source=Source(
            "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model",
            "2405.04434",
            "section 2.1",
            authors="{DeepSeek-AI}",
        ),
        what="Keys and values of all heads come from one small latent per token, which is all that decoding keeps.",
        formula="c = rmsnorm(y W_dkv),  c' = rmsnorm(x W_dq) or x\n"
        "q_h = [c' W_q^h ; turn(c' W_qr^h)],  k_h = [c W_uk^h ; turn(y W_kr)],  v_h = c W_uv^h\n"
        "full: q_h = turn(c' W_q^h),  k_h = turn(c W_uk^h)",
        cross=True,
        gqa=False,
        cost=Cost(time=1, state=1),
        limits=(
            Limit("latent_attention"),
            Limit("latent_attention", q_rank=16, kv_rank=12),
            Limit("latent_attention", placement="full"),
        ),
        variants=(
            {"placement": "full", "kv_rank": 12},
            {"q_rank": 16, "kv_rank": 12, "nope_dim": 6, "rope_dim": 4, "v_dim": 10},
        ),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kv_rank: int | None = None,
        q_rank: int | None = None,
        placement: str = "decoupled",
        nope_dim: int | None = None,
        rope_dim: int | None = None,
        v_dim: int | None = None,
        eps: float = 1e-6,
    ) -> None:
        super().__init__()
        self.placement = placement
        self.one_of("placement", ("decoupled", "full"))
        if nope_dim is None or v_dim is None:
            width = divide("MLA", dim, heads)
            nope_dim, v_dim = width if nope_dim is None else nope_dim, width if v_dim is None else v_dim
        if placement == "full":
            if rope_dim:
                raise ValueError(
                    f"MLA.rope_dim={rope_dim} has no use with placement='full', where a position turns every feature. "
                    "Leave it out, or type placement='decoupled'."
                )
            rope_dim = 0
        elif rope_dim is None:
            rope_dim = max(2, nope_dim // 4 * 2)
        self.nope_dim, self.rope_dim, self.v_dim, self.q_rank = nope_dim, rope_dim, v_dim, q_rank
        self.at_least(nope_dim=1, v_dim=1, rope_dim=0 if placement == "full" else 2)
        self.kv_rank = min(4 * nope_dim, dim) if kv_rank is None else kv_rank
        self.at_least(kv_rank=1)
        if q_rank is not None:
            self.at_least(q_rank=1)
        if rope_dim % 2:
            raise ShapeError(f"MLA.rope_dim must be even; got {rope_dim}. Type rope_dim={rope_dim + 1}.")
        self.latent = True
        self.dim, self.heads, self.kv_heads = dim, heads, heads
        self.head_dim, self.value_dim = nope_dim + rope_dim, v_dim
        self.rotary = slice(nope_dim, None) if rope_dim else slice(None)
        if q_rank is not None:
            self.q_down = nn.Linear(dim, q_rank, bias=False)
            self.q_norm = nn.RMSNorm(q_rank, eps=eps)
        self.q = nn.Linear(dim if q_rank is None else q_rank, heads * self.head_dim, bias=False)
        self.kv_down = nn.Linear(dim, self.kv_rank, bias=False)
        self.kv_norm = nn.RMSNorm(self.kv_rank, eps=eps)
        self.k_up = nn.Linear(self.kv_rank, heads * nope_dim, bias=False)
        self.v_up = nn.Linear(self.kv_rank, heads * v_dim, bias=False)
        if rope_dim:
            self.k_rope = nn.Linear(dim, rope_dim, bias=False)
        start(self)

    def queries(self, tokens: Tensor, call: Call) -> Tensor:
        made = tokens if self.q_rank is None else self.q_norm(self.q_down(tokens))
        return split(self.q(made), self.heads)

    def keep(self, memory: Tensor, call: Call) -> tuple[Tensor, ...]:
        latent = self.kv_norm(self.kv_down(memory))[:, None]
        return (latent, self.k_rope(memory)[:, None]) if self.rope_dim else (latent,)

    def expand(self, kept: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        latent = kept[0][:, 0]
        k, v = split(self.k_up(latent), self.heads), split(self.v_up(latent), self.heads)
        if self.rope_dim:
            k = torch.cat([k, kept[1].expand(-1, self.heads, -1, -1)], -1)
        return k, v
