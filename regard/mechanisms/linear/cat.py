"""CAT: one softmax over the tokens, rolled into the weights of every query, by the Fourier transform."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.edits import softmax
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.slot import divide


@dataclass(frozen=True, eq=False)
class Circle:
    """Scores [B, H, M, 1] and values of the tokens so far, and the sum [B, H, D] of their keys where there are any."""

    held: Held
    keys: Tensor | None


class CircularConvolutionalAttention(Layer):
    """A score per token and head; query i weighs token j by the softmax of the scores at j - i around the circle.

    Scores are a linear map of the tokens, or with `keys="averaged"` the product of a token's query with the mean of all
    keys. In causal order there is no circle, which would show what comes later: query i weighs token j by the softmax
    of the scores 0 .. i at i - j, and averages the keys so far. `form` is how: `"fft"` takes N log N, `"gather"` N^2;
    `"auto"` is the first without an order and the second, which is exact for scores of any size, in causal order.
    CAT-Alter, the paper's choice for causal models, alternates this layer with plain attention.

    Shapes: tokens [B, N, dim] to [B, N, dim]; each document, and what is real of a row, has a circle of its own.
    Raises: ShapeError where `dim` is not a multiple of `heads`; ValueError for another `keys` or `form`.
    Source: "CAT: Circular-Convolutional Attention for Sub-Quadratic Transformers", 2504.06704, section 4.
    Differs from the paper: the causal form of averaged keys, whose mean would see later tokens.
    """

    spec: ClassVar[Spec] = Spec(
        id="cat",
        slot="layer",
        source=Source(
            "CAT: Circular-Convolutional Attention for Sub-Quadratic Transformers",
            "2504.06704",
            "section 4",
            authors="Yamada, Yoshihiro",
        ),
        what="One softmax over the tokens, rolled on for every query: attention as a circular convolution.",
        formula="w = softmax over tokens(x W_A),  out_i = sum_j w[(j - i) mod N] v_j\n"
        "causal: out_i = sum_{j <= i} exp(z[i - j]) v_j / sum_{j <= i} exp(z[j])",
        gqa=False,
        # In causal order, by gathering; the transform takes N log N without one.
        cost=Cost(time=2, state=1),
        limits=(
            Limit("circulant"),
            Limit("circulant", keys="averaged"),
            Limit("circulant", form="gather"),
            Limit("mean_of_all_values", zero=("score.weight",)),
        ),
        variants=({"keys": "averaged"}, {"form": "gather"}),
    )

    def __init__(self, dim: int, heads: int, *, keys: str = "merged", form: str = "auto", bias: bool = False) -> None:
        super().__init__()
        self.dim, self.heads, self.keys, self.form = dim, heads, keys, form
        self.head_dim = divide("CircularConvolutionalAttention", dim, heads)
        self.one_of("keys", ("merged", "averaged"))
        self.one_of("form", ("auto", "fft", "gather"))
        if keys == "merged":
            self.score = nn.Linear(dim, heads, bias=False)
        else:
            self.q, self.k = nn.Linear(dim, dim, bias=bias), nn.Linear(dim, dim, bias=bias)
        self.v, self.out = nn.Linear(dim, dim, bias=bias), nn.Linear(dim, dim, bias=bias)
        start(self)

    def attend(self, call: Call) -> Tensor:
        if not call.padded and call.documents is None:
            return self._rows(call.tokens, None, call.causal)
        slots, real, back, own = _unpacked(call)
        flat = call.tokens.flatten(0, 1)
        if not slots.numel():
            return torch.zeros_like(call.tokens)
        made = self._rows(flat[slots].masked_fill(~real[..., None], 0.0), real, call.causal)
        out = torch.zeros_like(flat).index_put((own,), made.flatten(0, 1)[back])
        return out.view_as(call.tokens)

    def begin(self, batch: int) -> Circle:
        if self.keys == "merged":
            return Circle(Held(), None)
        return Circle(Held(), self.v.weight.new_zeros(batch, self.heads, self.head_dim))

    def advance(self, inner: Circle, call: Call) -> tuple[Tensor, Circle]:
        x, n = call.tokens, call.tokens.shape[1]
        at = call.q_at(n, n)
        v, sums = split(self.v(x), self.heads), inner.keys
        if sums is None:
            z = self.score(x).transpose(1, 2)
        else:
            keys = split(self.k(x), self.heads).masked_fill(~(at >= 0)[:, None, :, None], 0.0)
            running = sums[:, :, None] + keys.cumsum(2)
            z = self._averaged(x, running / (at + 1).clamp(min=1)[:, None, :, None])
            sums = running[:, :, -1]
        held = inner.held.append((z[..., None], v), at)
        (scores, values), places = held.parts, held.positions
        assert places is not None
        M = places.shape[1]
        known = places.expand(x.shape[0], -1)
        # By position; what is padding goes behind the last.
        slots = torch.where(known < 0, M, known)[:, None].expand(-1, self.heads, -1)
        ordered = torch.zeros_like(scores[:, :, :1, 0]).repeat(1, 1, M + 1).scatter(2, slots, scores[..., 0])
        return self.out(join(_toeplitz(ordered, values, at, places))), Circle(held, sums)

    def weights(self, tokens: Tensor) -> Tensor:
        """Each head's softmax over the tokens [B, N, dim], without an order or padding: [B, heads, N]."""
        return self._scores(tokens, None, False).softmax(-1)

    def _rows(self, x: Tensor, real: Tensor | None, causal: bool) -> Tensor:
        """Rows [S, L, C] whose real tokens come first, each on a circle of its own."""
        v, z = split(self.v(x), self.heads), self._scores(x, real, causal)
        fft = self.form == "fft" or (self.form == "auto" and not causal)
        if causal:
            places = torch.arange(x.shape[1], device=x.device)[None]
            return self.out(join(_line(z, v) if fft else _toeplitz(z, v, places, places)))
        if real is not None:
            v = v.masked_fill(~real[:, None, :, None], 0.0)
        w = softmax.weights(z, None if real is None else real[:, None])
        return self.out(join(_circle(w, v, real) if fft else _rolled(w, v, real)))

    def _scores(self, x: Tensor, real: Tensor | None, causal: bool) -> Tensor:
        """Scores [S, H, L]."""
        if self.keys == "merged":
            return self.score(x).transpose(1, 2)
        keys = split(self.k(x), self.heads)
        if real is not None:
            keys = keys.masked_fill(~real[:, None, :, None], 0.0)
        if causal:
            count = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=keys.dtype)[:, None]
            return self._averaged(x, keys.cumsum(2) / count)
        count = x.shape[1] if real is None else real.sum(1)[:, None, None, None]
        return self._averaged(x, keys.sum(2, keepdim=True) / count)

    def _averaged(self, x: Tensor, mean: Tensor) -> Tensor:
        return (split(self.q(x), self.heads) * mean).sum(-1) / math.sqrt(self.head_dim)


def circular_cross(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The form across two sequences: weights from the keys' products with the mean query, on the circle of the keys.

    Shapes: q [B, H, N, D]; k [B, H, M, D]; v [B, H, M, E]; result [B, H, N, E], query i read at i mod M.
    """
    z = (q.mean(2, keepdim=True) * k).sum(-1) / math.sqrt(q.shape[-1])
    around = _circle(softmax.weights(z), v, None)
    return around[:, :, torch.arange(q.shape[2], device=q.device) % k.shape[2]]


def _circle(w: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
    """sum_j w[(j - i) mod L] v_j by the Fourier transform, for rows whose L real tokens come first.

    Shapes: w [S, H, K]; v [S, H, K, D]; real [S, K].
    """
    K, kind = v.shape[2], v.dtype
    w, v = w.to(_wide(v))[..., None], v.to(_wide(v))
    n = K if real is None else 2 * K
    sums = torch.fft.irfft(torch.fft.rfft(w, n, 2).conj() * torch.fft.rfft(v, n, 2), n, 2)
    if real is not None:  # the circle is shorter than the row: what is left of its start comes from its end
        at = torch.arange(K, device=v.device)
        behind = (at - real.sum(1, keepdim=True)) % n
        sums = sums[:, :, :K] + sums.take_along_dim(behind[:, None, :, None], 2)
    return sums.to(kind)


def _rolled(w: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
    """The same with the weights of every query written out."""
    K = v.shape[2]
    at = torch.arange(K, device=v.device)
    length = torch.full((1, 1, 1), K, device=v.device) if real is None else real.sum(1)[:, None, None]
    steps = (at - at[:, None]) % length
    full = w.unsqueeze(2).expand(-1, -1, K, -1).take_along_dim(steps[:, None], 3)
    return (full @ v.to(full.dtype)).to(v.dtype)


def _line(z: Tensor, v: Tensor) -> Tensor:
    """The causal form by the Fourier transform, exact to the rounding of the largest exp(z)."""
    kind, n = v.dtype, 2 * v.shape[2]
    z, v = z.to(_wide(v)), v.to(_wide(v))
    powers = (z - z.amax(-1, keepdim=True)).exp()
    sums = torch.fft.irfft(torch.fft.rfft(powers[..., None], n, 2) * torch.fft.rfft(v, n, 2), n, 2)[:, :, : v.shape[2]]
    return (sums / powers.cumsum(-1).clamp(min=torch.finfo(v.dtype).tiny)[..., None]).to(kind)


def _toeplitz(z: Tensor, v: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """The causal form of queries at places i [S|1, n] over tokens at places j [S|1, m], -1 for padding.

    Shapes: z [S, H, places]; v [S, H, m, D].
    """
    steps = i[:, :, None] - j[:, None, :]
    seen = (steps >= 0) & (i >= 0)[:, :, None] & (j >= 0)[:, None, :]
    found = steps.clamp(min=0)[:, None].expand(z.shape[0], z.shape[1], -1, -1)
    scores = z.unsqueeze(2).expand(-1, -1, i.shape[1], -1).gather(3, found)
    weights = softmax.weights(scores, seen[:, None])
    return (weights @ v.to(weights.dtype).masked_fill((j < 0)[:, None, :, None], 0.0)).to(v.dtype)


def _unpacked(call: Call) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Each row's real tokens, and each document, as a row of its own.

    Shapes: slots and which are real [S, L], slots of B N; then for each of T real tokens its slot of S L, and of B N.
    """
    B, N = call.tokens.shape[:2]
    device = call.tokens.device
    real = (call.q_at(N, N) >= 0).expand(B, -1)
    count = real.cumsum(1) - 1
    begin = torch.zeros(B, N, dtype=torch.int64, device=device)
    if call.documents is not None:
        begin = call.starts.expand(B, -1)
        count = count - count.gather(1, begin)
    own = real.flatten().nonzero()[:, 0]
    group = (begin + torch.arange(B, device=device)[:, None] * N).flatten()[own]
    _, row, sizes = group.unique(return_inverse=True, return_counts=True)
    L = int(sizes.max()) if len(sizes) else 0
    back = row * L + count.flatten()[own]
    slots = torch.zeros(len(sizes) * L, dtype=torch.int64, device=device).scatter(0, back, own)
    shown = torch.arange(L, device=device) < sizes[:, None]
    return slots.view(-1, L) if L else slots, shown, back, own


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
