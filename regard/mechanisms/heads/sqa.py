"""Sparse query attention's projection."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.projection import LinearProjection, split, start
from regard.mechanisms.slot import divide

VARIANTS = ("sqa", "ssqa", "xsqa", "xsmqa", "lsqa")


class SQA(LinearProjection):
    """Fewer query heads than the model's width has room for, so that scores and sums cost less.

    `variant` names the paper's choices for H = `heads`: "sqa" H/2 query and H/4 key heads, "ssqa" H/2 of both, "xsqa"
    H/4 of both, "xsmqa" H/4 and 1, "lsqa" 3H/4 and H/4; `q_heads` and `kv_heads` say it in numbers. With `reverse` the
    two change places, and queries are repeated for the key heads.

    Shapes: tokens [B, N, dim] to q [B, max(q_heads, kv_heads), N, dim / heads], k and v [B, kv_heads, N, dim / heads].
    Raises: ShapeError where `dim` is not a multiple of `heads`; ValueError where the numbers of heads do not fit.
    Source: "Sparse Query Attention (SQA)", 2510.01817, section 3.
    Differs from the paper: where H/2, H/4 or 3H/4 is no whole number, or the key heads would not divide the query
    heads, the next smaller number that does is taken. `reverse` at its defaults is "sqa" with the two changed round.
    """

    spec: ClassVar[Spec] = Spec(
        id="sqa",
        slot="projection",
        source=Source(
            "Sparse Query Attention (SQA): A Computationally Efficient Attention Mechanism with Query Heads Reduction",
            "2510.01817",
            "section 3",
            authors="Filipek, Adam",
        ),
        what="Fewer query heads than the width has room for: scores and sums cost q_heads / heads of multi-head's.",
        formula="q_h = x W_q^h for h < H_q,  k_g = y W_k^g,  v_g = y W_v^g for g < H_kv,  all of width dim / H\n"
        "head h reads group g = h // (H_q / H_kv);  H_q <= H",
        cross=True,
        cost=Cost(time=1, state=1),
        limits=(
            Limit("softmax"),
            Limit("softmax", variant="ssqa"),
            Limit("softmax", variant="lsqa"),
            Limit("softmax", q_heads=4, kv_heads=4),
            Limit("softmax", q_heads=4, kv_heads=2),
            Limit("softmax", q_heads=4, kv_heads=1),
        ),
        inert=("k.bias",),  # it adds the same to all of a query's scores, unless a position turns it
        variants=({"variant": "lsqa"}, {"reverse": True}, {"bias": True}),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        variant: str = "sqa",
        q_heads: int | None = None,
        kv_heads: int | None = None,
        reverse: bool = False,
        bias: bool = False,
    ) -> None:
        width = divide("SQA", dim, heads)
        if variant not in VARIANTS:
            raise ValueError(f"SQA.variant must be one of {', '.join(map(repr, VARIANTS))}; got {variant!r}.")
        named = _named(variant, heads)
        q, kv = named[::-1] if reverse else named
        q = q if q_heads is None else q_heads
        kv = (max(q, kv) if reverse else _below(q, kv)) if kv_heads is None else kv_heads
        for name, count in (("q_heads", q), ("kv_heads", kv)):
            if not 1 <= count <= heads:
                raise ValueError(f"SQA.{name} must be from 1 to heads={heads}; got {count}.")
        few, many = (q, kv) if reverse else (kv, q)
        if many % few:
            cure = f"Type kv_heads={_below(q, kv)}" + ("." if kv < q or reverse else ", or reverse=True.")
            if reverse:
                cure = f"Type q_heads={_below(kv, q)}, or reverse=False."
            names = ("kv_heads", "q_heads") if reverse else ("q_heads", "kv_heads")
            raise ValueError(f"SQA.{names[0]}={many} is not a multiple of {names[1]}={few}. {cure}")
        super().__init__(dim, many, kv, width, bias=bias)
        self.q_heads = q
        if reverse:
            self.q = nn.Linear(dim, q * width, bias=bias)
            start(self.q)

    def queries(self, tokens: Tensor, call: Call) -> Tensor:
        return split(self.q(tokens), self.q_heads).repeat_interleave(self.heads // self.q_heads, 1)

    def flops(self, N: int, M: int | None = None, *, batch: int = 1) -> int:
        """Floating-point operations of one call with N tokens over M (by default N), without a mask.

        Of the products alone: projections, scores, sums of values, and a merge of `heads * value_dim` to `dim`.
        """
        M = N if M is None else M
        maps = N * (self.q_heads + self.heads) + 2 * M * self.kv_heads
        return batch * self.head_dim * (2 * self.dim * maps + 4 * self.heads * N * M)

    @classmethod
    def from_projection(
        cls, projection: LinearProjection, merge: Tensor, q_heads: int, *, kv_heads: int | None = None
    ) -> tuple[SQA, Tensor]:
        """A projection with `q_heads` made of a trained one, and the weight of the merge that goes with it.

        Neighbouring query heads are averaged and the merge's columns for them added up; so are key and value heads
        where there are more than `kv_heads`, by default as many as there were but at most `q_heads`. It equals the
        layer it was made of where the averaged heads are equal, and wants tuning elsewhere; the paper has none of this.

        Shapes: merge [C, heads * head_dim] to [C, q_heads * head_dim].
        Raises: ShapeError where the weights do not fit; ValueError where the numbers of heads do not.
        """
        H, G, D = projection.heads, projection.kv_heads, projection.head_dim
        kv = min(G, q_heads) if kv_heads is None else kv_heads
        for name, count, whole in (("q_heads", q_heads, H), ("kv_heads", kv, G)):
            if count < 1 or whole % count:
                raise ValueError(f"SQA.{name}={count} must divide the {whole} there are. Type {_below(whole, count)}.")
        if projection.dim != D * H or merge.dim() != 2 or merge.shape[1] != H * D:
            raise ShapeError(
                f"SQA needs heads of width dim / heads and a merge [C, {H * D}]; got {H} heads of width {D} for "
                f"dim={projection.dim}, and {list(merge.shape)}."
            )
        made = cls(projection.dim, H, q_heads=q_heads, kv_heads=kv, bias=projection.q.bias is not None)
        made = made.to(merge.device, merge.dtype)
        with torch.no_grad():
            for name, count in (("q", q_heads), ("k", kv), ("v", kv)):
                for own, old in zip(
                    getattr(made, name).parameters(), getattr(projection, name).parameters(), strict=True
                ):
                    own.copy_(old.unflatten(0, (count, -1, D)).mean(1).flatten(0, 1))
            return made, merge.unflatten(1, (q_heads, -1, D)).sum(2).flatten(1)


def _named(variant: str, heads: int) -> tuple[int, int]:
    """Query and key heads of a named variant."""
    half, quarter = max(1, heads // 2), max(1, heads // 4)
    q, kv = {
        "sqa": (half, quarter),
        "ssqa": (half, half),
        "xsqa": (quarter, quarter),
        "xsmqa": (quarter, 1),
        "lsqa": (max(1, 3 * heads // 4), quarter),
    }[variant]
    return q, _below(q, kv)


def _below(whole: int, count: int) -> int:
    """The largest divisor of `whole` that is at most `count`, and at least 1."""
    return next(d for d in range(max(1, min(count, whole)), 0, -1) if whole % d == 0)
