"""Attention that filters noisy observations of a linear system."""

from __future__ import annotations

import math
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
from regard.mechanisms.slot import divide

FREQUENCIES = ("learned", "rope", "none")
RESIDUALS = ("distance", "product")
FLOOR = 1e-6  # the least variance
SIGMA2, ETA2, GAMMA2 = 0.1, 0.5, 0.5  # the variances at the start: of the process, of keys, of queries


@dataclass(frozen=True, eq=False)
class Tables:
    """What depends on the distance of tokens alone, [B|1, H|1, N, M]: decay, the key's variance, -log the value's."""

    decay: Tensor
    key: Tensor
    prior: Tensor


class AdaptiveFilterAttention(Layer):
    """Tokens are noisy observations of a rotating, decaying system: keys are carried to the query's time and weighed.

    A key counts by the precision with which it can be carried over the distance and by how near it then comes to the
    query; values are carried likewise. A head's first half of features are real parts, its second half imaginary
    ones. A token's position is its time; without a causal order, distances count in both directions.

    `robust`: the squared residual sits inside a logarithm, so that an outlier loses less than it would by a Gaussian.
    `residual`: "distance" |q - k|^2, or "product", its cross term alone. `frequencies`: "learned" in pairs of opposite
    signs, "rope" fixed to those of rotary positions, or "none". `decay` and `process`: whether the system decays, and
    whether it has noise of its own. `separate_noise`: values have variances of their own. `turn_values`: values rotate
    too. `gain`: a head's output is blended with the token's own value. `predict`: outputs are carried one step on.
    `norm`: RMS-normalise a head's output. `steps` is the longest sequence that decay and frequencies are scaled to.

    Shapes: tokens [B, N, dim] to [B, N, dim].
    Raises: ShapeError where `dim` is not a multiple of `heads` or a head's width is odd; ValueError for an unknown
    word, `residual="product"` with `robust`, steps < 1, and positions that do not increase where the call is causal.
    Source: "Attention as an Adaptive Filter", 2509.04154, and its code.
    Differs from the paper: the isotropic form only, one decay and one set of variances for all features of a head.
    """

    spec: ClassVar[Spec] = Spec(
        id="adaptive_filter_attention",
        slot="layer",
        source=Source("Attention as an Adaptive Filter", "2509.04154", "the isotropic form", authors="Racioppo, Peter"),
        what="Keys and values are carried to the query's time by a learned linear system, and weighed by how precisely "
        "they can be carried and how near they then are.",
        formula="r_ij = q_i - e^{lam (t_i - t_j)} k_j,  lam_f = -alpha + i omega_f,  D = |t_i - t_j|\n"
        "V_ij = sigma^2 (1 - e^{-2 alpha D}) / (2 alpha) + eta^2 e^{-2 alpha D} + gamma^2\n"
        "A = softmax_j(tau^2 (-log V_ij - log(1 + |r_ij|^2 / (nu d V_ij))))\n"
        "out_i = g sum_j A_ij e^{lam (t_i - t_j)} v_j + (1 - g) v_i",
        gqa=False,
        cost=Cost(time=2, state=1),
        limits=(
            Limit("adaptive_filter"),
            Limit(
                "softmax",
                robust=False,
                residual="product",
                frequencies="none",
                decay=False,
                process=False,
                gain=False,
            ),
        ),
        variants=(
            {"robust": False, "separate_noise": True},
            {"predict": True, "frequencies": "rope", "norm": True},
            {"robust": False, "residual": "product", "decay": False, "gain": False, "turn_values": False},
        ),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        robust: bool = True,
        residual: str = "distance",
        frequencies: str = "learned",
        decay: bool = True,
        process: bool = True,
        separate_noise: bool = False,
        turn_values: bool = True,
        gain: bool = True,
        predict: bool = False,
        norm: bool = False,
        steps: int = 1024,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.width = dim, heads, divide("AdaptiveFilterAttention", dim, heads)
        self.robust, self.residual, self.frequencies, self.steps = robust, residual, frequencies, steps
        self.turn_values, self.predict, self.process = turn_values, predict, process
        self.one_of("residual", RESIDUALS)
        self.one_of("frequencies", FREQUENCIES)
        self.at_least(steps=1)
        if self.width % 2:
            raise ShapeError(
                f"AdaptiveFilterAttention reads a head as real and imaginary halves, and its width {dim} / {heads} = "
                f"{self.width} is odd. Type dim={2 * dim}, or other heads."
            )
        if robust and residual == "product":
            raise ValueError(
                "AdaptiveFilterAttention: a product may be negative and has no place in the robust logarithm. Type "
                "residual='product', robust=False."
            )
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        start(self)
        half = self.width // 2

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape))

        self.decay = zeros(heads) if decay else None
        # Process, key and query noise, of keys and of values; a system without noise of its own has the last two.
        self.noise = zeros(2 if separate_noise else 1, 3 if process else 2, heads)
        self.freedom, self.sharpness = zeros(heads), nn.Parameter(torch.ones(heads))
        self.gain = zeros(heads) if gain else None
        self.scale = nn.Parameter(torch.ones(heads, half)) if norm else None
        if frequencies == "learned":
            self.frequency = nn.Parameter(torch.randn(heads, half // 2))

    def attend(self, call: Call) -> Tensor:
        if call.causal and call.q_positions is not None:
            _increasing(call.q_positions)
        q, k, v = self._parts(call)
        N = q.shape[2]
        if call.k_positions is None:
            at = torch.arange(N, device=q.device)
            line = self._tables(at[None, None, None])  # a number for each distance, [1, H, 1, N]
            tables = Tables(*(_by_distance(t[0, :, 0]) for t in (line.decay, line.key, line.prior)))
        else:
            tables = self._tables((call.q_at(N, N)[:, None, :, None] - call.k_at(N)[:, None, None, :]).abs())
        return self._filtered(q, k, v, tables, call)

    def begin(self, batch: int) -> Any:
        return Held()

    def advance(self, inner: Held, call: Call) -> tuple[Tensor, Any]:
        q, k, v = self._parts(call)
        after = inner.append((k, v), call.k_at(k.shape[2]))
        call = call.with_(k_positions=after.positions)
        k, v = after.parts
        gaps = call.q_at(q.shape[2], k.shape[2])[:, None, :, None] - call.k_at(k.shape[2])[:, None, None, :]
        return self._filtered(q, k, v, self._tables(gaps.abs()), call), after

    def _parts(self, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each turned back to time 0, in at least float32."""
        q, k, v = (split(part(call.tokens), self.heads) for part in (self.q, self.k, self.v))
        q, k, v = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (q, k, v))
        at = call.q_at(q.shape[2], q.shape[2])
        return self._turned(q, -at), self._turned(k, -at), self._turned(v, -at) if self.turn_values else v

    def _filtered(self, q: Tensor, k: Tensor, v: Tensor, tables: Tables, call: Call) -> Tensor:
        N, M, d = q.shape[2], k.shape[2], self.width // 2
        off = -2 * tables.decay * (q @ k.transpose(-1, -2))
        if self.residual == "distance":
            norms = q.square().sum(-1)[..., :, None] + tables.decay**2 * k.square().sum(-1)[..., None, :]
            off = (norms + off).clamp(min=0)  # it is a square, but for rounding
        freedom = _above(self.freedom, 2 * math.sqrt(2 * d) / (d * (ETA2 + GAMMA2)))
        off = off / (freedom.to(q.dtype)[:, None, None] * d * tables.key)
        logits = tables.prior - (off.log1p() if self.robust else off)
        logits = self.sharpness.to(q.dtype).square()[:, None, None] * logits
        weights = _softmax(logits, call.visible(N, M)) * tables.decay
        out, own = weights @ v, v[:, :, M - N :]
        if self.gain is not None:
            g = torch.sigmoid(self.gain.to(q.dtype))[:, None, None]
            out = g * out + (1 - g) * own
        at = call.q_at(N, M)
        if self.turn_values:
            out = self._turned(out, at + 1 if self.predict else at)
        elif self.predict:
            out = self._turned(out, torch.ones_like(at))
        if self.predict and self.decay is not None:
            out = (-self._alpha(self.decay)).to(out.dtype).exp()[:, None, None] * out
        if self.scale is not None:
            mean = (2 * out.square().mean(-1, keepdim=True) + FLOOR).rsqrt()  # of squared complex features
            out = out * mean * torch.cat([self.scale, self.scale], -1).to(out.dtype)[:, None]
        return self.out(join(out).to(call.tokens.dtype))

    def _tables(self, gaps: Tensor) -> Tables:
        """What depends on distances [B|1, 1, n, m], for every head."""
        wide = torch.promote_types(self.noise.dtype, torch.float32)
        D = gaps.to(wide)
        starts = (SIGMA2, ETA2, GAMMA2) if self.process else (ETA2, GAMMA2)
        fading = torch.zeros_like(D)  # 2 alpha D
        if self.decay is not None:
            fading = 2 * self._alpha(self.decay).to(wide)[:, None, None] * D
        kept = (-fading).exp()
        found = []
        for noise in self.noise.to(wide):
            *process, eta2, gamma2 = (_above(raw, at)[:, None, None] for raw, at in zip(noise, starts, strict=True))
            V = eta2 * kept + gamma2
            found.append(V + process[0] * D * _shrunk(fading) if process else V)
        return Tables((-fading / 2).exp(), found[0], -found[-1].log())

    def _alpha(self, raw: Tensor) -> Tensor:
        """Decays [H] between 1e-5 and a little more than 5 / steps."""
        return (1 - torch.sigmoid(raw)) * 5 / self.steps + 1e-5

    def _omega(self, like: Tensor) -> Tensor | None:
        """Frequencies [H|1, width / 2]; None where nothing turns."""
        half = self.width // 2
        if self.frequencies == "none":
            return None
        if self.frequencies == "rope":
            # Rotary positions turn queries and keys forward, this turns them back: the signs are opposite.
            return -(10_000.0 ** -(torch.arange(half, device=like.device, dtype=like.dtype) / half))[None]
        turn = self.frequency.to(like.dtype) * (10 * 2 * math.pi / (2 * self.steps))
        return F.pad(torch.cat([turn, -turn], -1), (0, half % 2))

    def _turned(self, x: Tensor, times: Tensor) -> Tensor:
        """x [B, H, n, 2 d] times e^{i omega t}, for times [B|1, n]."""
        omega = self._omega(x)
        if omega is None:
            return x
        angle = omega[:, None] * times[:, None, :, None]
        re, im = x.chunk(2, -1)
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([re * cos - im * sin, re * sin + im * cos], -1)


def _above(raw: Tensor, start: float) -> Tensor:
    """A number above FLOOR for each raw one, `start` exactly where that is 0."""
    wide = raw.to(torch.promote_types(raw.dtype, torch.float32))
    return FLOOR + (start - FLOOR) * F.softplus(wide) / math.log(2)


def _shrunk(x: Tensor) -> Tensor:
    """(1 - e^{-x}) / x for x >= 0, and its series where x is small."""
    small = x < 1e-6
    safe = torch.where(small, 1.0, x)
    return torch.where(small, 1 - x / 2, -torch.expm1(-safe) / safe)


def _softmax(scores: Tensor, seen: Tensor) -> Tensor:
    """Softmax over the keys that are seen; zeros where none is."""
    scores = torch.where(seen, scores, -torch.inf)
    top = scores.detach().amax(-1, keepdim=True)
    powers = (scores - torch.where(top == -torch.inf, 0.0, top)).exp()
    total = powers.sum(-1, keepdim=True)
    return powers / torch.where(total == 0, 1.0, total)


def _by_distance(line: Tensor) -> Tensor:
    """[H, N], a number for each distance, to [H, N, N] by row and column, as a view."""
    both = torch.cat([line.flip(-1), line[:, 1:]], -1)
    return both.unfold(-1, line.shape[-1], 1).flip(-2)


def _increasing(positions: Tensor) -> None:
    """Raise ValueError unless the real positions of every row increase."""
    before = positions.cummax(-1).values[:, :-1]
    wrong = (positions[:, 1:] >= 0) & (positions[:, 1:] <= before)
    if wrong.any():
        row, at = wrong.nonzero()[0].tolist()
        raise ValueError(
            f"AdaptiveFilterAttention's positions are times and must increase in a causal call; position "
            f"{int(positions[row, at + 1])} follows {int(before[row, at])}. Sort the tokens, or type causal=False."
        )
