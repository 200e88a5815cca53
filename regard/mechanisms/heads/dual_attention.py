"""Dual attention: some heads read what the others are, some read how they relate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.caches import Held, beside
from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.rotary import even, frequencies, turned
from regard.mechanisms.slot import divide

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "identity": lambda x: x,
    "relu": F.relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "softmax": lambda x: x.softmax(-1),
}


class DualAttention(Layer):
    """Sensory heads read the values of the tokens they look at, relational heads how these relate, and a symbol.

    `relational_heads` of the `heads`, half by default, are relational; they share `relations` relations, by default as
    many as they are, which are inner products under an `activation`, and equal both ways where `symmetric`. A symbol
    says which token a relation is with: "symbolic" looks it up in a library of `n_symbols` by what the token is,
    "relational" by how it relates to the `neighbours` tokens before it (and, where `two_sided`, those after it that may
    be seen), "positional" by where it is (up to `length`), "relative" by how far it is (at most `reach`); another
    layer's `.symbols` is shared with it. With `shared` both kinds of heads have the same queries and keys, which
    `rope` turns by their positions; `group` heads of a kind have one key, and one value where they are sensory.

    Shapes: tokens [B, N, dim] to [B, N, dim].
    Raises: ShapeError where `dim`, heads and relations do not fit; ValueError for a setting out of range, and for a
    position beyond `length`.
    Source: "Disentangling and Integrating Relational and Sensory Information", 2405.16727, sections 2 and 3.
    Differs from the paper: under activation "softmax" a relation is normalised over the tokens that are seen (the
    paper's code also counts hidden ones); a neighbour that is not there has no relation (the code takes the first or
    last token for it).
    """

    spec: ClassVar[Spec] = Spec(
        id="dual_attention",
        slot="layer",
        source=Source(
            "Disentangling and Integrating Relational and Sensory Information in Transformer Architectures",
            "2405.16727",
            "sections 2 and 3",
            authors="Altabaa, Awni and Lafferty, John",
        ),
        what="Some heads read the values of other tokens, some the relations to them and a symbol of who they are.",
        formula="sensory head:     out_i = sum_j softmax_j(q_i k_j / sqrt(D)) v_j\n"
        "relational head:  out_i = sum_j a_ij (W_r r_ij + W_s s_j),  a = softmax of its own queries and keys\n"
        "r_ij[l] = act((x_i W_q^l) . (y_j W_k^l) / sqrt(D_r)),  s_j: the symbol of token j",
        cross=True,
        gqa=False,
        cost=Cost(time=2, state=1),
        limits=(
            Limit("softmax", relational_heads=0),
            Limit("dual_attention"),
            Limit("dual_attention", relational_heads=4, relations=2),
            Limit("dual_attention", symbols="positional", symmetric=True),
            Limit("dual_attention", symbols="relative", reach=3, activation="tanh", shared=True),
            Limit("dual_attention", symbols="relational", neighbours=3, rope=True),
            Limit("dual_attention", symbols="relational", two_sided=True, relational_heads=4, group=2),
            Limit("dual_attention", rope=True, group=2, activation="relu"),
        ),
        variants=(
            {"symbols": "positional", "symmetric": True, "relational_heads": 4},
            {"symbols": "relative", "reach": 3, "activation": "softmax", "relations": 4},
            {"symbols": "relational", "two_sided": True, "rope": True, "group": 2},
        ),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        relational_heads: int | None = None,
        relations: int | None = None,
        symbols: str | nn.Module = "symbolic",
        n_symbols: int = 64,
        symbol_heads: int | None = None,
        length: int = 2048,
        reach: int = 64,
        neighbours: int = 2,
        two_sided: bool = False,
        symmetric: bool = False,
        activation: str = "identity",
        shared: bool = False,
        rope: bool = False,
        group: int = 1,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.head_dim = dim, heads, divide("DualAttention", dim, heads)
        r = self.relational_heads = heads // 2 if relational_heads is None else relational_heads
        if not 0 <= r <= heads:
            raise ValueError(f"DualAttention.relational_heads must be from 0 to heads={heads}; got {r}.")
        self.sensory_heads, self.activation, self.rope, self.group = heads - r, activation, rope, group
        self.one_of("activation", tuple(ACTIVATIONS))
        self.at_least(group=1)
        if r % group or (heads - r) % group:
            raise ValueError(
                f"DualAttention.group={group} must divide both the {heads - r} sensory and the {r} relational heads. "
                f"Type group={math.gcd(r, heads - r, group)}."
            )
        if rope:
            even("DualAttention", self.head_dim)
        if shared and self.sensory_heads != r:
            raise ValueError(
                f"DualAttention.shared needs as many sensory as relational heads; got {heads - r} and {r}. Type "
                f"relational_heads={heads // 2}, or shared=False."
            )
        if self.sensory_heads:
            width = self.sensory_heads * self.head_dim
            self.q, self.k, self.v = (
                nn.Linear(dim, size, bias=False) for size in (width, width // group, width // group)
            )
            self.out = nn.Linear(width, width, bias=False)
        if r:
            width = r * self.head_dim
            self.relations = r if relations is None else relations
            self.at_least(relations=1)
            if width % self.relations:
                raise ShapeError(
                    f"DualAttention.relations={self.relations} must divide {width}, the width of {r} relational heads. "
                    f"Type relations={r}."
                )
            self.q_attn = self.q if shared else nn.Linear(dim, width, bias=False)
            self.k_attn = self.k if shared else nn.Linear(dim, width // group, bias=False)
            self.q_rel = nn.Linear(dim, width, bias=False)
            self.k_rel = self.q_rel if symmetric else nn.Linear(dim, width, bias=False)
            self.w_symbol, self.out_rel = nn.Linear(dim, width, bias=False), nn.Linear(width, width, bias=False)
            self.w_rel = nn.Parameter(torch.empty(r, self.head_dim, self.relations))
            nn.init.kaiming_uniform_(self.w_rel, a=math.sqrt(5))
        start(self)
        if r:
            width = symbol_heads or heads
            kinds = {
                "symbolic": lambda: SymbolicAttention(dim, width, n_symbols),
                "relational": lambda: RelationalSymbols(dim, width, n_symbols, neighbours, two_sided),
                "positional": lambda: PositionalSymbols(dim, length),
                "relative": lambda: RelativeSymbols(dim, reach),
            }
            if isinstance(symbols, str) and symbols not in kinds:
                words = ", ".join(map(repr, kinds))
                raise ValueError(f"DualAttention.symbols must be one of {words}, or another layer's; got {symbols!r}.")
            self.symbols = kinds[symbols]() if isinstance(symbols, str) else symbols

    def attend(self, call: Call) -> Tensor:
        return self._mix(call, self._keep(call))

    def begin(self, batch: int) -> Held:
        return Held()

    def advance(self, inner: Held, call: Call) -> tuple[Tensor, Held]:
        held = inner.append(self._keep(call, inner), call.k_at(call.memory.shape[1]))
        return self._mix(call.with_(k_positions=held.positions), held.parts), held

    def related(self, tokens: Tensor, memory: Tensor | None = None) -> Tensor:
        """The relations of tokens [B, N, dim] to others [B, M, dim], by default to each other: [B, relations, N, M].

        Under activation "softmax" they are normalised over all M.
        """
        q, k = self.q_rel(tokens), self.k_rel(tokens if memory is None else memory)
        return ACTIVATIONS[self.activation](self._products(q, split(k, self.relations)))

    def _products(self, q: Tensor, k: Tensor) -> Tensor:
        return split(q, self.relations) @ k.transpose(2, 3) * k.shape[-1] ** -0.5

    def _keep(self, call: Call, before: Held | None = None) -> tuple[Tensor, ...]:
        """What is kept of the memory's tokens: keys and values, then keys of both kinds, symbols and what makes them.

        `before` is what was kept of the tokens before them.
        """
        y, kept = call.memory, ()
        at = call.k_at(y.shape[1])
        if self.sensory_heads:
            few = self.sensory_heads // self.group
            kept += self._turned(split(self.k(y), few), at), split(self.v(y), few)
        if not self.relational_heads:
            return kept
        kept += (self._turned(split(self.k_attn(y), self.relational_heads // self.group), at),)
        kept += (split(self.k_rel(y), self.relations),)
        if isinstance(self.symbols, RelativeSymbols):
            return kept
        if call.documents is not None:
            at = torch.where(at < 0, -1, at - call.starts)
        if isinstance(self.symbols, RelationalSymbols):
            own = keys = self.symbols.keys(y)
            places = at
            if before is not None and before.positions is not None:
                keys, places = torch.cat([before.parts[-1], keys], 2), beside(before.positions, at)
            symbols = self.symbols(y, places, keys, call.causal, call.documents)
            return *kept, split(self.w_symbol(symbols), self.relational_heads), own
        return *kept, split(self.w_symbol(self.symbols(y, at)), self.relational_heads)

    def _turned(self, x: Tensor, at: Tensor) -> Tensor:
        return turned(x, at, frequencies(self.head_dim, 10000.0, x)) if self.rope else x

    def _mix(self, call: Call, kept: tuple[Tensor, ...]) -> Tensor:
        outs = []
        at = call.q_at(call.tokens.shape[1], kept[0].shape[2])
        if self.sensory_heads:
            q = self._turned(split(self.q(call.tokens), self.sensory_heads), at)
            outs.append(self.out(join(call.attend(q, *kept[:2]))))
            kept = kept[2:]
        if self.relational_heads:
            q = self._turned(split(self.q_attn(call.tokens), self.relational_heads), at)
            outs.append(self.out_rel(join(self._relational(call, q, *kept[:3]))))
        return torch.cat(outs, -1)

    def _relational(self, call: Call, q: Tensor, k: Tensor, k_rel: Tensor, symbols: Tensor | None = None) -> Tensor:
        N, M = q.shape[2], k.shape[2]
        seen = call.visible(N, M)
        scores = q.unflatten(1, (-1, self.group)) @ k[:, :, None].transpose(3, 4)
        scores = scores.flatten(1, 2) * k.shape[-1] ** -0.5
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        least = torch.finfo(scores.dtype).min
        # Where nothing is seen all weights are equal, and zeroed.
        weights = scores.masked_fill(~seen, least).softmax(-1).masked_fill(~seen, 0.0).to(k.dtype)
        products = self._products(self.q_rel(call.tokens), k_rel)
        if self.activation == "softmax":
            products = products.masked_fill(~seen, torch.finfo(products.dtype).min)
        related = ACTIVATIONS[self.activation](products).masked_fill(~seen, 0.0)
        # The relations are summed before W_r, so that nothing of size N x M x head_dim is ever made.
        read = torch.einsum("bhnm,brnm->bhnr", weights, related) @ self.w_rel.transpose(1, 2)
        if symbols is not None:
            return read + weights @ symbols
        assert isinstance(self.symbols, RelativeSymbols)
        table = split(F.linear(self.symbols.table.weight, self.w_symbol.weight)[None], self.relational_heads)
        place = self.symbols.places(call.q_at(N, M), call.k_at(M))[:, None].expand(weights.shape)
        by_place = weights.new_zeros(*weights.shape[:3], table.shape[2]).scatter_add(3, place, weights)
        return read + by_place @ table


class SymbolicAttention(nn.Module):
    """Symbols by what a token is: softmax attention over templates, whose values are a library of symbols.

    Shapes: tokens [B, M, dim] to symbols [B, M, dim].
    Raises: ShapeError where `dim` is not a multiple of `heads`; ValueError where count < 1.
    """

    def __init__(self, dim: int, heads: int, count: int) -> None:
        super().__init__()
        divide("SymbolicAttention", dim, heads)
        if count < 1:
            raise ValueError(f"DualAttention.n_symbols must be at least 1; got {count}.")
        self.heads, self.query = heads, nn.Linear(dim, dim)
        self.templates, self.library = (nn.Parameter(torch.randn(count, dim)) for _ in range(2))

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Symbols of tokens [B, M, dim]; their positions do not matter."""
        q, k, v = (split(x, self.heads) for x in (self.query(tokens), self.templates[None], self.library[None]))
        scores = q @ k.transpose(2, 3) * q.shape[-1] ** -0.5
        return join(scores.to(torch.promote_types(scores.dtype, torch.float32)).softmax(-1).to(v.dtype) @ v)


class RelationalSymbols(nn.Module):
    """Symbols by how a token relates to its neighbours: those relations are the query of symbolic attention.

    A relation is an inner product, normalised over the `neighbours` tokens before and, where `two_sided`, after; there
    are as many as `heads`.

    Shapes: tokens [B, n, dim] to symbols [B, n, dim].
    Raises: ShapeError where `dim` is not a multiple of `heads`; ValueError where count or neighbours < 1.
    """

    def __init__(self, dim: int, heads: int, count: int, neighbours: int, two_sided: bool) -> None:
        super().__init__()
        if neighbours < 1:
            raise ValueError(f"DualAttention.neighbours must be at least 1; got {neighbours}.")
        self.heads = heads
        self.offsets = [o for o in range(-neighbours, neighbours + 1 if two_sided else 0) if o]
        self.lookup = SymbolicAttention(dim, heads, count)
        # A bias of the keys would add the same to all neighbours.
        self.query, self.key = nn.Linear(dim, dim), nn.Linear(dim, dim, bias=False)
        self.relation = nn.Linear(len(self.offsets) * heads, dim)

    def keys(self, tokens: Tensor) -> Tensor:
        """What a token's neighbours relate to: [B, heads, n, dim / heads]."""
        return split(self.key(tokens), self.heads)

    def forward(
        self, tokens: Tensor, positions: Tensor, keys: Tensor, causal: bool, documents: Tensor | None = None
    ) -> Tensor:
        """Symbols of tokens [B, n, dim], the last of those that have keys [B, heads, M, D] at positions [B|1, M]."""
        n, M = tokens.shape[1], keys.shape[2]
        real = positions >= 0
        # Neighbours are counted among the real tokens: `order` has their slots one after another.
        order, rank = (~real).to(torch.int8).argsort(dim=1, stable=True), real.cumsum(1) - 1
        offsets = torch.tensor(self.offsets, device=tokens.device)
        place = rank[:, M - n :, None] + offsets
        there = (place >= 0) & (place < real.sum(1)[:, None, None]) & real[:, M - n :, None]
        slot = order.gather(1, place.clamp(0, M - 1).flatten(1)).view(place.shape)
        if causal:
            there = there & (offsets < 0)
        if documents is not None:
            of = documents.expand(len(slot), -1).gather(1, slot.flatten(1)).view(slot.shape)
            there = there & (of == documents[:, :, None])
        near = keys.take_along_dim(slot.flatten(1)[:, None, :, None], 2).unflatten(2, slot.shape[1:])
        scores = (split(self.query(tokens), self.heads)[:, :, :, None] * near).sum(-1) * keys.shape[-1] ** -0.5
        scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
        there = there[:, None]
        related = scores.masked_fill(~there, torch.finfo(scores.dtype).min).softmax(-1).masked_fill(~there, 0.0)
        return self.lookup(self.relation(related.transpose(1, 2).flatten(2).to(keys.dtype)), positions)


class PositionalSymbols(nn.Module):
    """Symbols by where a token is.

    Shapes: positions [B|1, M] to symbols [B|1, M, dim].
    Raises: ValueError where length < 1.
    """

    def __init__(self, dim: int, length: int) -> None:
        super().__init__()
        if length < 1:
            raise ValueError(f"DualAttention.length must be at least 1; got {length}.")
        self.table = nn.Embedding(length, dim)

    def forward(self, tokens: Tensor, positions: Tensor) -> Tensor:
        """Symbols [B, M, dim] of positions [B|1, M].

        Raises: ValueError for a position that has none.
        """
        length = self.table.num_embeddings
        if int(positions.max()) >= length:
            raise ValueError(
                f"Position {int(positions.max())} has no symbol: there are {length}. Type length={positions.max() + 1}."
            )
        return self.table(positions.clamp(min=0)).expand(tokens.shape[0], -1, -1)


class RelativeSymbols(nn.Module):
    """Symbols by how far a token is, up to `reach` to either side.

    Shapes: `table` holds one symbol [dim] for each distance from -reach to reach.
    Raises: ValueError where reach < 1.
    """

    def __init__(self, dim: int, reach: int) -> None:
        super().__init__()
        if reach < 1:
            raise ValueError(f"DualAttention.reach must be at least 1; got {reach}.")
        self.reach, self.table = reach, nn.Embedding(2 * reach + 1, dim)

    def places(self, i: Tensor, j: Tensor) -> Tensor:
        """Rows of the table [B|1, N, M] for queries at i [B|1, N] and keys at j [B|1, M]."""
        return (j[:, None, :] - i[:, :, None]).clamp(-self.reach, self.reach) + self.reach
