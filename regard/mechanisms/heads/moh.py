"""Mixture of heads: every token is routed to some of the heads."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.errors import Unsupported
from regard.mechanisms.call import Call
from regard.mechanisms.merge import Merge
from regard.mechanisms.projection import join, start
from regard.ops import attend


class MoH(Merge):
    """Every token reads the first `shared` heads and, of the others, the `active` ones that its router likes best.

    `router="learned"` weighs the heads by linear maps of the token; `"query_norm"` has no parameters, selects by the
    norm of the queries, and its gates are 0 or 1 (in training the gradient passes straight through to the norms). By
    default half of the heads are shared and a quarter active, and of less than six heads a quarter and two. With
    `active=1` the gate of the one is constant, so that a learned router learns from `balance` alone. `forward` is given
    every head's output; `gathered` computes the selected ones alone. Add `balance` to the loss, times about 0.01.

    Shapes: [B, heads, N, value_dim] to [B, N, dim].
    Raises: ValueError for counts that do not fit the heads.
    Source: "MoH", 2410.11842, sections 3.2 to 3.4.
    Differs from the paper: gates are scaled to a mean of one, as in its published code.
    """

    spec: ClassVar[Spec] = Spec(
        id="moh",
        slot="merge",
        source=Source(
            "MoH: Multi-Head Attention as Mixture-of-Head Attention",
            "2410.11842",
            "sections 3.2 to 3.4",
            authors="Jin, Peng and Zhu, Bo and Yuan, Li and Yan, Shuicheng",
        ),
        what="Every token reads some heads always and, of the others, those to which a router sends it.",
        formula="y = concat(g_1 out_1, ..., g_H out_H) W_o\n"
        "p = softmax(W_r x),  T = the K largest of p,  [a_1, a_2] = 2 softmax(W_a x)\n"
        "g_h = a_1 S softmax(W_s x)_h for the S shared heads,  g_h = a_2 K p_h / sum_T p for h in T,  else 0\n"
        "query_norm: p = softmax(|q_h| / std |q|),  g_h = 1 for shared heads and h in T,  else 0",
        cross=True,
        cost=Cost(time=1, state=0),
        limits=(
            Limit("softmax", zero=("route.weight", "weigh.weight"), active=3),
            Limit("softmax", zero=("route.weight", "share.weight", "weigh.weight"), shared=2),
            Limit("softmax", zero=("share.weight",), shared=4),
            Limit("softmax", router="query_norm", active=3),
            Limit("two_routed_heads"),
            Limit("two_routed_heads", shared=0),
            Limit("best_routed_head", shared=2, active=1),
        ),
        variants=({"shared": 2}, {"router": "query_norm", "bias": True}),
        # Queries rounded to bfloat16 have other norms, which send a nearly undecided token to another head; one such
        # token in a hundred makes six times plain attention's error. The learned router reads exact tokens in float32.
        bfloat16=10.0,
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        value_dim: int,
        *,
        shared: int | None = None,
        active: int | None = None,
        router: str = "learned",
        bias: bool = False,
    ) -> None:
        super().__init__()
        self.router = router
        self.one_of("router", ("learned", "query_norm"))
        if shared is None:
            # Few heads are not halved: a learned router needs two active ones, see above, and something to leave out.
            shared = heads // (2 if heads > 5 else 4)
        routed = heads - shared
        self.shared, self.routed = shared, routed
        self.active = min(max(routed, 0), max(2, round(heads / 4))) if active is None else active
        for name in ("shared", "active"):
            if not isinstance(getattr(self, name), int) or isinstance(getattr(self, name), bool):
                raise ValueError(f"MoH.{name} must be a whole number of heads; got {getattr(self, name)!r}.")
        self.at_least(shared=0, active=0)
        if shared > heads or self.active > routed:
            fits = max(0, min(shared, heads - self.active))
            raise ValueError(
                f"MoH has {heads} heads: shared={shared} leaves {max(routed, 0)} to route, and active={self.active} "
                f"are asked for. Type shared={fits}, active={min(heads, self.active)}."
            )
        if shared + self.active == 0:
            raise ValueError("MoH with shared=0 and active=0 reads no head. Type active=1 or more.")
        self.out = nn.Linear(heads * value_dim, dim, bias=bias)
        if router == "learned":
            if self.active:
                self.route = nn.Linear(dim, routed, bias=False)
            if shared > 1:
                self.share = nn.Linear(dim, shared, bias=False)
            if self.active and shared:
                self.weigh = nn.Linear(dim, 2, bias=False)
        start(self)

    def forward(self, out: Tensor, call: Call) -> Tensor:
        gates = self.gates(call.tokens, call.q)
        return self.out(join(out * gates.transpose(1, 2)[..., None].to(out.dtype)))

    def gates(self, tokens: Tensor, q: Tensor | None = None) -> Tensor:
        """How much of each head every token reads, [B, N, heads]; at most `shared + active` of them are not zero.

        Shapes: tokens [B, N, dim]; q [B, heads, N, D], the queries before any position, for "query_norm".
        """
        p, chosen = self._routes(tokens, q)
        if self.router == "query_norm":
            hard = chosen.to(p.dtype)
            own = hard + p - p.detach() if self.training else hard
            return torch.cat([own.new_ones(*own.shape[:-1], self.shared), own], -1)
        taken = p * chosen
        own = self.active * taken / taken.sum(-1, keepdim=True).clamp_min(torch.finfo(p.dtype).tiny)
        always = own.new_ones(*own.shape[:-1], self.shared)
        if self.shared > 1:
            always = self.shared * _wide(tokens, self.share).softmax(-1)
        if self.active and self.shared:
            both = 2 * _wide(tokens, self.weigh).softmax(-1)
            always, own = both[..., :1] * always, both[..., 1:] * own
        return torch.cat([always, own], -1)

    def balance(self, tokens: Tensor, q: Tensor | None = None, *, real: Tensor | None = None) -> Tensor:
        """The load-balancing loss of a batch: `active` where all heads are taken alike, more where some are preferred.

        Shapes: tokens [B, N, dim]; q as for `gates`; real boolean [B, N], without padding; a number.
        """
        p, chosen = self._routes(tokens, q)
        if real is None:
            real = torch.ones(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        likely, often = p[real].mean(0), chosen[real].to(p.dtype).mean(0)
        return self.routed * (likely * often).sum()

    def gathered(self, q: Tensor, k: Tensor, v: Tensor, call: Call, *, scale: float | None = None) -> Tensor:
        """What softmax attention and `forward` give, [B, N, dim], with only the selected queries of each head computed.

        Shapes: q [B, heads, N, D], k [B, G, M, D] and v [B, G, M, E], positions being in them; `call.q` as for `gates`.
        Raises: Unsupported where the call edits scores, since edits are of all queries.
        """
        if call.edits:
            raise Unsupported("MoH.gathered can't edit scores. Call the layer, or use a position that turns.")
        B, H, N, _ = q.shape
        at, where = call.q_at(N, k.shape[2]).expand(B, -1), call.where
        group = torch.arange(H, device=q.device) // (H // k.shape[1])
        outs = []
        if self.shared:
            some = group[: self.shared]
            outs.append(
                attend(
                    q[:, : self.shared], k[:, some], v[:, some],
                    where=where, scale=scale, q_positions=call.q_positions, k_positions=call.k_positions,
                )
            )  # fmt: skip
        if self.routed:
            _, chosen = self._routes(call.tokens, call.q)
            chosen = chosen.transpose(1, 2) & (at >= 0)[:, None]
            # Each head's selected queries first, as many as the busiest head has; what is left over is an empty slot.
            S = max(1, int(chosen.sum(-1).max()))
            index = chosen.long().sort(dim=-1, descending=True, stable=True).indices[..., :S]
            places = at[:, None].expand(-1, self.routed, -1).gather(-1, index)
            places = torch.where(chosen.gather(-1, index), places, -1)
            some = group[self.shared :]
            rows = q[:, self.shared :].gather(2, index[..., None].expand(-1, -1, -1, q.shape[-1]))
            # Where everything is looked at no mask is needed: what empty slots read has no gate.
            seen = not call.causal and not call.padded and call.documents is None
            got = attend(
                rows, k[:, some], v[:, some], where=where, scale=scale,
                q_positions=None if seen else places, k_positions=None if seen else call.k_positions,
            )  # fmt: skip
            empty = got.new_zeros(B, self.routed, N, got.shape[-1])
            outs.append(empty.scatter(2, index[..., None].expand_as(got), got))
        return self(torch.cat(outs, 1), call)

    def _routes(self, tokens: Tensor, q: Tensor | None) -> tuple[Tensor, Tensor]:
        """How much the router likes each routed head, and which it takes: [B, N, routed], at least in float32."""
        if not self.active:
            nothing = tokens.new_zeros(*tokens.shape[:2], self.routed)
            return nothing, nothing.bool()
        if self.router == "learned":
            likes = _wide(tokens, self.route)
        elif q is None:
            raise ValueError("MoH.router='query_norm' reads the queries: give q [B, heads, N, D], before any position.")
        else:
            long = torch.linalg.vector_norm(q[:, self.shared :].to(_at_least_float32(q)), dim=-1).transpose(1, 2)
            spread = long.var(-1, keepdim=True, correction=0)
            likes = long * (spread + 1e-12).rsqrt()
        best = likes.topk(self.active, -1).indices
        return likes.softmax(-1), torch.zeros_like(likes, dtype=torch.bool).scatter(-1, best, True)


def _wide(tokens: Tensor, linear: nn.Linear) -> Tensor:
    # Half precision would send tokens that are nearly undecided to other heads.
    kind = _at_least_float32(tokens)
    return nn.functional.linear(tokens.to(kind), linear.weight.to(kind))


def _at_least_float32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
