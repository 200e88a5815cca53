"""Grouped attention: neighbouring tokens are put side by side and attend as one."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.core import Cost, Limit, Source, Spec
from regard.edits import Bias
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import start


class GroupedAttention(Layer):
    """`group` neighbouring tokens become one of `group` times the width; the heads, as many as before, share it out.

    There are N / group of them, so that scores cost `group` times less. The tokens of a group share their weights,
    and each reads the values at its own place in the other groups. A last, short group is filled with zeros. `relative`
    adds Transformer-XL's scores of the distance between groups.

    Strided attention of the same paper is `layer(tokens[:, ::stride], tokens)` of a layer that takes a memory.

    Shapes: tokens [B, N, dim] to [B, N, dim]; heads are group * dim / heads wide.
    Raises: ShapeError where group * dim is not a multiple of `heads`; ValueError where group < 1, or `dim` is odd and
    positions are `relative`.
    Source: "Efficient conformer", 2109.01163, section 3.2; its released code for positions of groups.
    Differs from the paper: it has no causal form, since a token would see the later ones of its group (the code allows
    that); groups are counted over a row's real tokens, and padding is never in one (the code groups it in).
    """

    spec: ClassVar[Spec] = Spec(
        id="grouped_time_attention",
        slot="layer",
        source=Source(
            "Efficient conformer: Progressive downsampling and grouped attention for automatic speech recognition",
            "2109.01163",
            "section 3.2",
            authors="Burchi, Maxime and Vielzeuf, Valentin",
        ),
        what="Neighbouring tokens are put side by side and attend as one, so that scores cost that much less.",
        formula="Q_t = concat(q_{gt}, ..., q_{gt+g-1}), K and V likewise, split into H heads of width d = g C / H\n"
        "O = softmax(Q K^T / sqrt(d)) V, cut into tokens again;  y = O W_o\n"
        "relative: ((Q + u) K^T + (Q + v) E_{t-s}^T) / sqrt(d)",
        causal=False,
        decode=False,
        gqa=False,
        cost=Cost(time=2, state=0),
        limits=(
            Limit("softmax", group=1),
            Limit("grouped_attention"),
            Limit("grouped_attention", group=5),
            Limit("grouped_attention", group=3, relative=True),
            Limit("grouped_attention", group=4, relative=True),
            Limit("grouped_attention", group=5, relative=True, bias=False),
        ),
        # They add the same to all of a query's scores: the position's always, the keys' where no group is short.
        inert=("k.bias", "position.bias"),
        variants=({"relative": True},),
    )

    def __init__(self, dim: int, heads: int, *, group: int = 2, relative: bool = False, bias: bool = True) -> None:
        super().__init__()
        self.dim, self.heads, self.group, self.relative = dim, heads, group, relative
        self.at_least(dim=1, heads=1, group=1)
        if group * dim % heads:
            fits = next(g for g in range(group, group + heads) if g * dim % heads == 0)
            raise ShapeError(
                f"GroupedAttention: group * dim = {group * dim} is not a multiple of heads={heads}. Type group={fits}."
            )
        if relative and dim % 2:
            raise ValueError(f"GroupedAttention.relative needs an even dim; got {dim}. Type relative=False.")
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=bias) for _ in range(4))
        if relative:
            self.position = nn.Linear(dim, dim, bias=bias)
            bound = math.sqrt(6 / (heads + group * dim / heads))
            self.of_content, self.of_position = (nn.Parameter(torch.empty(dim).uniform_(-bound, bound)) for _ in "uv")
        start(self)

    def attend(self, call: Call) -> Tensor:
        x, N, g = call.tokens, call.tokens.shape[1], self.group
        q, k, v = self.q(x), self.k(x), self.v(x)
        order = places = None
        if call.padded and call.q_real is not None:
            # Real tokens in front, in their order; the rest is as if it were not there.
            real = call.q_real.expand(x.shape[0], -1)
            order = (~real).to(torch.int8).argsort(dim=1, stable=True)
            real = real.gather(1, order)
            q, k, v = (t.gather(1, order[..., None].expand_as(t)).masked_fill(~real[..., None], 0.0) for t in (q, k, v))
            there = real[:, ::g]
            places = torch.where(there, torch.arange(there.shape[1], device=x.device), -1)
        q, k, v = (F.pad(t, (0, 0, 0, -N % g)) for t in (q, k, v))
        edits = ()
        if self.relative:
            edits = (Bias(self._by_distance(self._grouped(q + self.of_position))),)
            q = q + self.of_content
        groups = call.with_(q_positions=places, k_positions=places)
        out = groups.attend(self._grouped(q), self._grouped(k), self._grouped(v), edits=edits)
        out = out.transpose(1, 2).reshape(x.shape[0], -1, self.dim)[:, :N]
        if order is not None:
            out = out.gather(1, order.argsort(1)[..., None].expand_as(out))
        return self.out(out)

    def _grouped(self, x: Tensor) -> Tensor:
        """Tokens [B, T * group, dim] to heads of groups [B, H, T, group * dim / heads]."""
        return x.reshape(x.shape[0], -1, self.heads, self.group * self.dim // self.heads).transpose(1, 2)

    def _by_distance(self, q: Tensor) -> Tensor:
        """Scaled scores [B, H, T, T] of queries [B, H, T, d] and the distances of groups."""
        T = q.shape[2]
        table = self._grouped(self.position(distances(T, self.group, self.dim).to(q))[None])
        scores = q @ table.transpose(2, 3) * q.shape[-1] ** -0.5
        at = torch.arange(T, device=q.device)
        return scores.gather(3, (at - at[:, None] + T - 1).expand_as(scores[..., :T]))


def distances(groups: int, group: int, dim: int) -> Tensor:
    """Sinusoids for each token of each distance between groups, from groups - 1 down: [(2 * groups - 1) * group, dim].

    A distance's tokens lie around group times it; with an even group the zero comes twice, as in the paper's code.
    """
    N, half = groups * group, group // 2
    before = torch.arange(N - 1 - half, group % 2 - 1, -1, dtype=torch.float64)
    place = torch.cat([before, -torch.arange(N - half, dtype=torch.float64)])
    angles = place[:, None] * 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
