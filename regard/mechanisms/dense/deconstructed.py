"""Attention with one of its principles taken away."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.rotary import frequencies, turned
from regard.mechanisms.slot import divide

VARIANTS = ("standard", "mlp", "taylor", "nonapprox", "rnd_fixed", "text_fixed", "static_emb")
_FIXED = ("rnd_fixed", "text_fixed")
_CHUNK = 64  # tokens whose pairs are scored directly before they go into a running state


@dataclass(frozen=True, eq=False)
class Running:
    """A sum over the tokens so far: of weighted values and of weights, both times exp(-top) where there is a top."""

    values: Tensor
    weights: Tensor
    top: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Fixed:
    """The values of the tokens so far, and the keys of the fixed sequence [1, H, L, D], the same for every row."""

    held: Held
    keys: Tensor | None = None


class Deconstructed(Layer):
    """Causal attention, or one of six layers with as many parameters that each drop one of its principles.

    "standard": softmax of products. "mlp": no mixing of tokens, a gated map of each. "taylor": exp(s) becomes
    1 + s + s^2/2, which a running sum serves. "nonapprox": a key's score does not depend on who asks. "rnd_fixed" and
    "text_fixed": queries and keys come from a fixed sequence, so that the weights depend on positions alone.
    "static_emb": queries and keys come from the model's input embeddings.

    Shapes: tokens and, for "static_emb", embeddings [B, N, dim] to [B, N, dim]; `stream`, for "text_fixed", is floats
    [length, dim], one row a position, or token ids [length]. `length` is how many positions "rnd_fixed" can tell apart.
    Raises: ValueError for an unknown variant, for "text_fixed" without `stream`, for "static_emb" called without
    embeddings, for token ids read outside a model, and for positions past the fixed sequence; ShapeError where sizes do
    not fit.
    Source: "Deconstructing Attention", 2510.11602, section 3.
    Differs from the paper: its fixed sequence runs through the whole stack as a second stream, each layer reading it
    after the input norm. `DecoderLM` does so, through `reading`; a layer alone keeps a stream of its own, every row
    scaled to a mean square of 1 as such a norm would leave it. "nonapprox" is not turned by position, since its score
    is not of a pair.
    """

    spec: ClassVar[Spec] = Spec(
        id="deconstructed",
        slot="layer",
        source=Source(
            "Deconstructing Attention: Investigating Design Principles for Effective Language Modeling",
            "2510.11602",
            "section 3",
            authors="Xue, Huiyin and Moosavi, Nafise Sadat and Aletras, Nikolaos",
        ),
        what="Causal attention of which one principle is dropped: mixing, softmax, dependence on the input, or fresh "
        "queries and keys.",
        formula="standard: softmax(q k^T / sqrt(D)) v;  mlp: Down(SiLU(Gate x) * Up x)\n"
        "taylor: weights 1 + s + s^2 / 2, normalised;  nonapprox: s_j = SiLU(q_j) . k_j / sqrt(D) for every query\n"
        "rnd_fixed, text_fixed: q, k from a fixed sequence;  static_emb: q, k from the input embeddings",
        bidirectional=False,
        gqa=False,
        cost=Cost(time=2, state=1),  # of the default; "taylor", "nonapprox" and "mlp" take linear time, constant state
        limits=(
            Limit("softmax", rope=False),
            Limit("softmax", variant="static_emb", rope=False),
            Limit("running_mean", variant="nonapprox", zero=("q.weight",)),
            Limit("running_mean", variant="taylor", zero=("q.weight",)),
            Limit("running_mean", variant="rnd_fixed", zero=("k.weight",)),
            Limit("second_order", variant="taylor", rope=False),
            Limit("own_scores", variant="nonapprox"),
            Limit("fixed_sequence", variant="rnd_fixed", rope=False),
        ),
        variants=(
            {"variant": "rnd_fixed"},
            {"variant": "static_emb"},
            ({"variant": "taylor"}, Cost(time=1, state=0)),
            ({"variant": "nonapprox"}, Cost(time=1, state=0)),
        ),
    )

    stream: Tensor

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        variant: str = "standard",
        rope: bool = True,
        base: float = 10_000.0,
        length: int = 2048,
        stream: Tensor | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.variant, self.rope, self.base = dim, heads, variant, rope, base
        self.length, self.width = length, divide("Deconstructed", dim, heads)
        self.one_of("variant", VARIANTS)
        self.at_least(length=1)
        if not base > 0:
            raise ValueError(f"Deconstructed.base must be greater than 0; got {base}.")
        if variant == "mlp":
            hidden = max(1, round(4 * dim / 3))  # three maps of this width have the parameters of attention's four
            self.gate = nn.Linear(dim, hidden, bias=False)
            self.up = nn.Linear(dim, hidden, bias=False)
            self.down = nn.Linear(hidden, dim, bias=False)
        else:
            self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
            if rope and variant != "nonapprox" and self.width % 2:
                raise ShapeError(f"Deconstructed can't turn heads of odd width {self.width}. Type rope=False.")
        start(self)
        if (stream is None) == (variant == "text_fixed"):
            raise ValueError(
                "Deconstructed: variant='text_fixed' and stream= go together. Type variant='text_fixed', "
                "stream=embedding(ids), one row a position, or neither."
            )
        if variant in _FIXED:
            rows = torch.randn(length, dim) if stream is None else torch.as_tensor(stream).detach()
            whole = not (rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool)
            fits = rows.dim() == 1 if whole else rows.is_floating_point() and rows.dim() == 2 and rows.shape[1] == dim
            if not fits or not len(rows):
                shown = f"{rows.dtype} {list(rows.shape)}"
                raise ShapeError(
                    f"Deconstructed.stream must be floats [length, {dim}] or token ids [length]; got {shown}."
                )
            self.length = rows.shape[0]
            self.register_buffer("stream", rows if whole else F.rms_norm(rows, (dim,)).to(self.q.weight.dtype))

    def reading(self, stream: Tensor) -> Deconstructed:
        """This layer, with these very parameters, on another fixed sequence: what a stack gives it of its own stream.

        Shapes: stream [length, dim], as the layer's input is: after the norm.
        """
        other = copy.copy(self)
        other._buffers = {**self._buffers, "stream": stream}
        other.length = len(stream)
        return other

    def attend(self, call: Call) -> Tensor:
        return self.advance(self.begin(call.tokens.shape[0]), call)[0]

    def begin(self, batch: int) -> Any:
        if self.variant == "mlp":
            return ()
        if self.variant in _FIXED:
            return Fixed(Held())
        if self.variant not in ("taylor", "nonapprox"):
            return Held()
        like = self.v.weight
        D, wide = self.width, torch.promote_types(like.dtype, torch.float32)
        features = (1 + D + D * D,) if self.variant == "taylor" else ()
        zero = torch.zeros(batch, self.heads, *features, D, device=like.device, dtype=wide)
        top = None if features else zero[..., 0] - torch.inf
        return Running(zero, zero[..., 0], top)

    def advance(self, inner: Any, call: Call) -> tuple[Tensor, Any]:
        x = call.tokens
        if self.variant == "mlp":
            return self.down(F.silu(self.gate(x)) * self.up(x)), inner
        v = split(self.v(x), self.heads)
        if self.variant in _FIXED:
            out, inner = self._fixed(inner, v, call)
        else:
            q, k = (split(part(self._from(call)), self.heads) for part in (self.q, self.k))
            if self.variant != "nonapprox":
                q, k = self._turned(q, call.q_positions), self._turned(k, call.k_positions)
            if isinstance(inner, Running):
                out, inner = self._summed(inner, q, k, v, call)
            elif inner.positions is None and call.k_positions is None:
                out = call.attend(q, k, v)  # a whole pass, whose tokens stand at their slots
            else:
                inner = inner.append((k, v), call.k_at(k.shape[2]))
                out = call.with_(k_positions=inner.positions).attend(q, *inner.parts)
        return self.out(join(out)), inner

    def _from(self, call: Call) -> Tensor:
        """What queries and keys are made from."""
        if self.variant != "static_emb":
            return call.tokens
        if call.embeddings is None:
            raise ValueError(
                "Deconstructed(variant='static_emb') makes queries and keys from the model's input embeddings. Type "
                "layer(tokens, embeddings=embedding(ids), causal=True)."
            )
        return call.embeddings

    def _fixed(self, inner: Fixed, v: Tensor, call: Call) -> tuple[Tensor, Fixed]:
        """Attention by queries and keys that are known before the tokens are."""
        if not self.stream.is_floating_point():
            raise ValueError(
                "Deconstructed can't embed the token ids of its stream by itself. Put the layer into a DecoderLM, or "
                "type stream=embedding(ids)."
            )
        n = v.shape[2]
        slots = at = call.q_at(n, n)
        if call.documents is not None:
            at = torch.where(slots < 0, -1, slots - call.starts)  # each document reads the sequence from its start
        alone = call.q_positions is None and call.documents is None
        last = n if alone else max(int(at.max()) + 1, 1)
        if last > self.length:
            raise ValueError(
                f"Deconstructed's fixed sequence has {self.length} positions and token {last - 1} is past them. Type "
                f"length={last} or more, or give a longer stream."
            )
        keys = inner.keys
        known = 0 if keys is None else keys.shape[2]
        if last > known:
            new = self._turned(split(self.k(self.stream[known:last])[None], self.heads), None, known)
            keys = new if keys is None else torch.cat([keys[:1], new], 2)
        assert keys is not None
        held = inner.held.append((v,), slots)
        assert held.positions is not None
        q = self._turned(split(self.q(self.stream[at.clamp(min=0)]), self.heads), at)
        places = held.positions if call.documents is None else at
        k = keys[0][:, places.clamp(min=0)].transpose(0, 1)
        rows = v.shape[0]
        q, k = q.expand(rows, -1, -1, -1), k.expand(rows, -1, -1, -1)
        if known or call.k_positions is not None:  # not a whole pass, whose tokens stand at their slots
            call = call.with_(k_positions=held.positions)
        return call.attend(q, k, held.parts[0]), Fixed(held, keys)

    def _summed(self, inner: Running, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Running]:
        """A chunk of tokens at a time: its own pairs directly, those before it through the running sums."""
        N, wide = v.shape[2], inner.values.dtype
        real = torch.ones(1, N, dtype=torch.bool, device=v.device) if call.real is None else call.real
        ids = torch.zeros(1, N, dtype=torch.long, device=v.device) if call.documents is None else call.documents
        serve = _second_order if self.variant == "taylor" else _own_scores
        outs = []
        for at in range(0, N, _CHUNK):
            part = slice(at, at + _CHUNK)
            pairs = _Pairs(ids[:, None, part], ids[:, None, max(at - 1, 0), None], real[:, None, part])
            one, two, three = (t[:, :, part].to(wide) for t in (q, k, v))
            out, inner = serve(inner, one, two, three, pairs)
            outs.append(out)
        return torch.cat(outs, 2).to(v.dtype), inner

    def _turned(self, x: Tensor, positions: Tensor | None, first: int = 0) -> Tensor:
        """x [B, H, n, D] turned by its positions [B|1, n], those from `first` on by default; halves are paired."""
        if not self.rope:
            return x
        if positions is None:
            positions = torch.arange(first, first + x.shape[2], device=x.device)[None]
        return turned(x, positions, frequencies(self.width, self.base, x))


class _Pairs:
    """Who reads whom in a chunk of tokens, and which of them the sums of the tokens before it belong to.

    Shapes: ids, real [B|1, 1, n], the tokens' documents and which tokens are not padding; last [B|1, 1, 1], the
    document of the token before the chunk.
    """

    def __init__(self, ids: Tensor, last: Tensor, real: Tensor) -> None:
        order = torch.ones(ids.shape[-1], ids.shape[-1], dtype=torch.bool, device=ids.device).tril()
        self.seen = order & (ids[..., :, None] == ids[..., None, :]) & real[..., None, :]
        self.goes_on = ids == last
        self.stays = (ids == ids[..., -1:]) & real


def _second_order(before: Running, q: Tensor, k: Tensor, v: Tensor, pairs: _Pairs) -> tuple[Tensor, Running]:
    """One chunk under the weights 1 + s + s^2 / 2, of which each is at least 1 / 2."""
    q, k = q * k.shape[-1] ** -0.25, k * k.shape[-1] ** -0.25
    s = q @ k.transpose(-1, -2)
    weights = torch.where(pairs.seen, 1 + s + s * s / 2, 0.0)
    asked, kept = _features(q) * pairs.goes_on[..., None], _features(k) * pairs.stays[..., None]
    total = weights.sum(-1) + (asked * before.weights[..., None, :]).sum(-1)
    out = (weights @ v + asked @ before.values) / total.clamp(min=0.5)[..., None]  # 0 only where nothing is seen
    left = pairs.goes_on[..., -1:]
    values = before.values * left[..., None] + kept.transpose(-1, -2) @ v
    return out, Running(values, before.weights * left + kept.sum(-2))


def _features(x: Tensor) -> Tensor:
    """Features whose products are 1 + s + s^2 / 2."""
    squares = (x[..., :, None] * x[..., None, :]).flatten(-2) / math.sqrt(2)
    return torch.cat([torch.ones_like(x[..., :1]), x, squares], -1)


def _own_scores(before: Running, q: Tensor, k: Tensor, v: Tensor, pairs: _Pairs) -> tuple[Tensor, Running]:
    """One chunk of a softmax whose scores belong to the keys alone."""
    assert before.top is not None
    s = ((F.silu(q) * k).sum(-1) * k.shape[-1] ** -0.5)[..., None, :]
    # Every query has its own greatest score so far; it only keeps exp in range, and no gradient goes through it.
    own = torch.where(pairs.seen, s.detach(), -torch.inf).amax(-1)
    top = torch.maximum(own, torch.where(pairs.goes_on, before.top[..., None], -torch.inf))
    safe = top.masked_fill(top == -torch.inf, 0.0)
    weights = torch.where(pairs.seen, torch.where(pairs.seen, s - safe[..., None], 0.0).exp(), 0.0)
    carried = torch.where(pairs.goes_on, before.top[..., None], -torch.inf).sub(safe).exp()
    total = weights.sum(-1) + carried * before.weights[..., None]
    values = weights @ v + carried[..., None] * before.values[..., None, :]
    out = values / torch.where(total == 0, 1.0, total)[..., None]
    return out, Running(values[..., -1, :], total[..., -1], top[..., -1])
