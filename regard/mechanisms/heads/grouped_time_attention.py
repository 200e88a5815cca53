"""Grouped attention: neighbouring tokens are put side by side and attend as one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.edits import Bias
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, start


@dataclass(frozen=True, eq=False)
class State:
    """Keys and values of every token [B, 1, M, C], and the queries [B, group - 1, C] of the last, unfinished group."""

    held: Held
    asked: Tensor


class GroupedAttention(Layer):
    """`group` neighbouring tokens become one of `group` times the width; the heads, as many as before, share it out.

    There are N / group of them, so that scores cost `group` times less. The tokens of a group share their weights,
    and each reads the values at its own place in the other groups. A last, short group is filled with zeros. `relative`
    adds Transformer-XL's scores of the distance between groups. Documents and rows are grouped from their first token.

    In a causal call a token's group asks without what comes after the token, so that nothing is seen ahead; decoding
    goes on within a group and over its border. Strided attention and the encoder of the same paper, which give fewer
    tokens than they take, are in `regard.backbones.speech`.

    Shapes: tokens [B, N, dim] to [B, N, dim]; heads are group * dim / heads wide.
    Raises: ShapeError where group * dim is not a multiple of `heads`; ValueError where group < 1, or `dim` is odd and
    positions are `relative`.
    Source: "Efficient conformer", 2109.01163, section 3.2; its released code for positions of groups.
    Differs from the paper: its causal form lets a token see the later ones of its group, which this one leaves out of
    the group's query (the same where group divides heads); groups are counted over a row's real tokens, and padding is
    never in one (the code groups it in); steps keep the tokens of an unfinished group, which the code drops.
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
        "relative: ((Q + u) K^T + (Q + v) E_{t-s}^T) / sqrt(d)\n"
        "causal, token n of group t: s <= t, and Q_t without the tokens after n",
        gqa=False,
        cost=Cost(time=2, state=1),
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
        self.alone = group  # the first group sees no other
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
        if not call.padded and call.documents is None:
            q, k, v = (F.pad(t, (0, 0, 0, -N % g)) for t in (q, k, v))
            return self.out(self._read(call.with_(q_positions=None, k_positions=None), q, k, v)[:, :N])
        slots, there, documents = self._slots(call)
        q, k, v = (_placed(t, slots, there.shape[1] * g) for t in (q, k, v))
        places = torch.where(there, torch.arange(there.shape[1], device=x.device), -1)
        groups = call.with_(q_positions=places, k_positions=places, documents=documents)
        return self.out(_taken(self._read(groups, q, k, v), slots))

    def begin(self, batch: int) -> State:
        return State(Held(), self.q.weight.new_zeros(batch, self.group - 1, self.dim))

    def advance(self, inner: State, call: Call) -> tuple[Tensor, State]:
        x, n, g = call.tokens, call.tokens.shape[1], self.group
        q, at = self.q(x), call.q_at(n, n)
        seen = at.new_zeros(1) if inner.held.positions is None else inner.held.positions.amax(1) + 1
        held = inner.held.append((self.k(x)[:, None], self.v(x)[:, None]), at)
        assert held.positions is not None
        after = torch.maximum(seen, at.amax(1) + 1)
        # The new tokens' queries beside those of their first group that came before.
        first, W = seen // g, -(-(g - 1 + n) // g) * g
        slots = torch.where(at < 0, W, at - g * first[:, None]).expand(x.shape[0], -1)
        asked = torch.cat([inner.asked, q.new_zeros(x.shape[0], W - g + 2, self.dim)], 1)
        asked = asked.scatter(1, slots[..., None].expand_as(q), q)
        T = max(1, -(-int(after.max()) // g))
        there = torch.where(held.positions < 0, T * g, held.positions).expand(x.shape[0], -1)
        k, v = (_placed(part[:, 0], there, T * g) for part in held.parts)
        asks, keys = first[:, None] + torch.arange(W // g, device=x.device), torch.arange(T, device=x.device)[None]
        asks, keys = (torch.where(t * g < after[:, None], t, -1) for t in (asks, keys))
        out = self._read(call.with_(q_positions=asks, k_positions=keys), asked[:, :W], k, v)
        rest = (after // g - first)[:, None] * g + torch.arange(g - 1, device=x.device)
        rest = rest.clamp(max=W).expand(x.shape[0], -1)[..., None]
        return self.out(_taken(out, slots)), State(held, asked.gather(1, rest.expand(-1, -1, self.dim)))

    def _slots(self, call: Call) -> tuple[Tensor, Tensor, Tensor | None]:
        """Where each token stands when every document's real tokens are grouped, which groups there are, and whose.

        Shapes: [B, N], past the last for padding; boolean [B, T]; [B, T].
        """
        B, N, g = call.tokens.shape[0], call.tokens.shape[1], self.group
        real = (call.q_at(N, N) >= 0).expand(B, -1)
        rank = real.cumsum(1) - 1
        if call.documents is not None:
            rank = rank - rank.gather(1, call.starts.expand(B, -1))
        begins = real & (rank % g == 0)
        group = begins.cumsum(1) - 1
        T = max(1, int(group.max()) + 1)
        there = torch.arange(T, device=real.device) < begins.sum(1, keepdim=True)
        documents = None
        if call.documents is not None:
            ids = call.documents.expand(B, -1)
            documents = ids.new_zeros(B, T + 1).scatter(1, torch.where(real, group, T), ids)[:, :T]
        return torch.where(real, group * g + rank % g, T * g), there, documents

    def _read(self, call: Call, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What tokens read before the last map, [B, T * group, dim], a call's positions being those of groups."""
        keys, values, C, g = self._grouped(k), self._grouped(v), self.dim, self.group
        if not call.causal:
            return join(self._heads(call, q, keys, values, slice(None))).reshape(q.shape)
        width, outs = keys.shape[-1], []
        for own in range(g):
            # The heads that hold the features of this place in a group, and no token after it.
            heads = slice(own * C // width, -(-(own + 1) * C // width))
            later = (torch.arange(g, device=q.device) > own)[:, None]
            out = join(self._heads(call, q, keys[:, heads], values[:, heads], heads, later))
            outs.append(out.narrow(2, own * C - heads.start * width, C))
        return torch.stack(outs, 2).flatten(1, 2)

    def _heads(self, call: Call, q: Tensor, k: Tensor, v: Tensor, heads: slice, later: Tensor | None = None) -> Tensor:
        """Some heads [B, h, T, group * dim / heads]; places in a group that are `later` ask nothing."""

        def asked(q: Tensor) -> Tensor:
            if later is not None:
                q = q.unflatten(1, (-1, self.group)).masked_fill(later, 0.0).flatten(1, 2)
            return self._grouped(q)[:, heads]

        if not self.relative:
            return call.attend(asked(q), k, v)
        bias = Bias(self._by_distance(asked(q + self.of_position), k.shape[2], heads, call))
        return call.attend(asked(q + self.of_content), k, v, edits=(bias,))

    def _grouped(self, x: Tensor) -> Tensor:
        """Tokens [B, T * group, dim] to heads of groups [B, H, T, group * dim / heads]."""
        return x.reshape(x.shape[0], -1, self.heads, self.group * self.dim // self.heads).transpose(1, 2)

    def _by_distance(self, q: Tensor, T: int, heads: slice, call: Call) -> Tensor:
        """Scaled scores [B, h, n, T] of queries [B, h, n, d] and the distances to T groups."""
        sinusoids = distances(T, self.group, self.dim, causal=call.causal).to(q)
        table = self._grouped(self.position(sinusoids)[None])[:, heads]
        scores = q @ table.transpose(2, 3) * q.shape[-1] ** -0.5
        at = torch.arange(T, device=q.device)
        if call.q_positions is None:
            apart = (at - at[:, None] + T - 1)[None]
        else:
            apart = at - call.q_positions.clamp_min(0)[..., None] + T - 1
        apart = apart.clamp(0, scores.shape[-1] - 1)  # what is ahead in a causal call, or padding, is not looked at
        return scores.gather(3, apart[:, None].expand(q.shape[0], q.shape[1], -1, -1))


def distances(groups: int, group: int, dim: int, *, causal: bool = False) -> Tensor:
    """Sinusoids for each token of each distance between groups, from groups - 1 down: [(2 * groups - 1) * group, dim].

    A distance's tokens lie around group times it; with an even group the zero comes twice, as in the paper's code. With
    `causal` distances end at 0, whose tokens lie from group - 1 down to 0: [groups * group, dim].
    """
    N, half = groups * group, group // 2
    if causal:
        place = torch.arange(N - 1, -1, -1, dtype=torch.float64)
    else:
        before = torch.arange(N - 1 - half, group % 2 - 1, -1, dtype=torch.float64)
        place = torch.cat([before, -torch.arange(N - half, dtype=torch.float64)])
    angles = place[:, None] * 10000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
    return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def _placed(x: Tensor, slots: Tensor, length: int) -> Tensor:
    """Tokens [B, N, C] at their slots [B, N] of [B, length, C]; what stands past the end is left out."""
    empty = x.new_zeros(x.shape[0], length + 1, x.shape[2])
    return empty.scatter(1, slots[..., None].expand_as(x), x)[:, :length]


def _taken(x: Tensor, slots: Tensor) -> Tensor:
    """The tokens [B, N, C] that stand at slots [B, N] of [B, length, C]."""
    return x.gather(1, slots.clamp(max=x.shape[1] - 1)[..., None].expand(-1, -1, x.shape[2]))
