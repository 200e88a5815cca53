"""Attention that filters noisy observations of a linear system."""

from __future__ import annotations

import math
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
from regard.ops.propagation import FLOOR, Tables, above, carried_variance, estimates, turned, weights

FREQUENCIES = ("learned", "rope", "none")
RESIDUALS = ("distance", "product")
BIASES = ("variance", "linear", "none")
SLOPE = 0.1  # the linear bias at the start, a step
LEAST, MOST = 1e-5, 5.0  # decay a step, and over `steps` of them


class AdaptiveFilterAttention(Layer):
    """Tokens are noisy observations of a rotating, decaying system: keys are carried to the query's time and weighed.

    A key counts by the precision with which it can be carried over the distance and by how near it then comes to the
    query; values are carried likewise. A head's first half of features are real parts, its second half imaginary
    ones. A token's time is its position times `dt`; without a causal order, distances count in both directions.

    `robust`: the squared residual sits inside a logarithm, so that an outlier loses less than it would by a Gaussian.
    `residual`: "distance" |q - k|^2, or "product", its cross term alone. `anisotropic`: decay and variances are each
    feature's own, residuals are measured in their precisions, and so is each feature of a value weighed; that makes
    tables of B H N M d numbers, and no more than `limit`. `bias`: what a key loses by distance whatever it holds, minus
    the log "variance", "linear" in time, or "none". `frequencies`: "learned" in pairs of opposite signs, "rope" fixed
    to those of rotary positions, or "none". `decay` and `process`: whether the system decays, and whether it has noise
    of its own; `alpha` is the decay and `variances` those of process, keys and queries, all at the start.
    `separate_noise`: values have variances of their own. `turn_values`: values rotate too. `gain`: a head's output is
    blended with the token's own value. `predict`: outputs are carried `dt` on. `norm`: RMS-normalise a head's output.
    `steps` is the longest sequence that decay and frequencies are scaled to.

    Shapes: tokens [B, N, dim] to [B, N, dim].
    Raises: ShapeError where `dim` is not a multiple of `heads` or a head's width is odd; ValueError for an unknown
    word, a number out of range, settings that do not go together, positions that do not increase where the call is
    causal, and tables above the limit.
    Source: "Attention as an Adaptive Filter", 2509.04154, and its code.
    Differs from the paper: the slope of the linear bias is a parameter of its own; variances of the anisotropic form
    are each feature's, while late versions of the code have one a head.
    """

    spec: ClassVar[Spec] = Spec(
        id="adaptive_filter_attention",
        slot="layer",
        source=Source("Attention as an Adaptive Filter", "2509.04154", authors="Racioppo, Peter"),
        what="Keys and values are carried to the query's time by a learned linear system, and weighed by how precisely "
        "they can be carried and how near they then are.",
        formula="r_ij = q_i - e^{lam (t_i - t_j)} k_j,  lam_f = -alpha + i omega_f,  D = |t_i - t_j|\n"
        "V_ij = sigma^2 (1 - e^{-2 alpha D}) / (2 alpha) + eta^2 e^{-2 alpha D} + gamma^2\n"
        "A = softmax_j(tau^2 (-log V_ij - log(1 + |r_ij|^2 / (nu d V_ij))))\n"
        "anisotropic: alpha, V and A a feature f each, with sum_f |r_ij,f|^2 / V_ij,f for |r_ij|^2 / V_ij\n"
        "out_i = g sum_j A_ij e^{lam (t_i - t_j)} v_j + (1 - g) v_i",
        gqa=False,
        cost=Cost(time=2, state=1),
        limits=(
            Limit("adaptive_filter"),
            Limit("adaptive_filter_by_feature", anisotropic=True),
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
            {"predict": True, "frequencies": "rope", "norm": True, "bias": "linear", "dt": 0.5},
            {"robust": False, "residual": "product", "decay": False, "gain": False, "turn_values": False},
            {"anisotropic": True, "separate_noise": True, "predict": True},
        ),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        robust: bool = True,
        residual: str = "distance",
        anisotropic: bool = False,
        bias: str = "variance",
        frequencies: str = "learned",
        decay: bool = True,
        alpha: float | None = None,
        process: bool = True,
        variances: tuple[float, float, float] = (0.1, 0.5, 0.5),
        separate_noise: bool = False,
        turn_values: bool = True,
        gain: bool = True,
        predict: bool = False,
        norm: bool = False,
        steps: int = 1024,
        dt: float = 1.0,
        limit: int = 2**26,
    ) -> None:
        super().__init__()
        self.dim, self.heads, self.width = dim, heads, divide("AdaptiveFilterAttention", dim, heads)
        self.robust, self.residual, self.anisotropic, self.bias = robust, residual, anisotropic, bias
        self.frequencies, self.steps, self.dt, self.limit = frequencies, steps, dt, limit
        self.turn_values, self.predict, self.process = turn_values, predict, process
        self.alpha, self.variances = alpha, tuple(variances)
        self.one_of("residual", RESIDUALS)
        self.one_of("bias", BIASES)
        self.one_of("frequencies", FREQUENCIES)
        self.at_least(steps=1, limit=1)
        self._checked(decay, separate_noise)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        start(self)
        half = self.width // 2

        def zeros(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(shape))

        each = (heads, half) if anisotropic else (heads,)
        self.decay = nn.Parameter(torch.full(each, self._raw())) if decay else None
        # Process, key and query noise, of keys and of values; a system without noise of its own has the last two.
        self.noise = zeros(2 if separate_noise else 1, 3 if process else 2, *each)
        self.freedom, self.sharpness = zeros(heads), nn.Parameter(torch.ones(heads))
        self.slope = zeros(heads) if bias == "linear" else None
        self.gain = zeros(heads) if gain else None
        self.scale = nn.Parameter(torch.ones(heads, half)) if norm else None
        if frequencies == "learned":
            self.frequency = nn.Parameter(torch.randn(heads, half // 2))

    @property
    def eigenvalues(self) -> Tensor:
        """The system's, -alpha + i omega, for each head and complex feature [H, d]."""
        shape = self.heads, self.width // 2
        omega = self._omega(self.freedom)
        alpha = self.freedom.new_zeros(shape) if self.decay is None else self._alpha(self.decay).reshape(shape[0], -1)
        turn = torch.zeros_like(alpha) if omega is None else omega
        return torch.complex(-alpha.expand(shape), turn.to(alpha.dtype).expand(shape))

    def attend(self, call: Call) -> Tensor:
        if call.causal and call.q_positions is not None:
            _increasing(call.q_positions)
        q, k, v = self._parts(call)
        return self._filtered(q, k, v, self._whole(call, q), call)

    def weights(self, call: Call) -> Tensor:
        """How much each query weighs each key [B, H, N, N], or feature of a key [B, H, N, N, d], before values decay.

        Shapes: the call is on whole sequences.
        """
        q, k, _ = self._parts(call)
        return weights(q, k, self._whole(call, q), call.visible(q.shape[2], k.shape[2]), **self._how(q))

    def begin(self, batch: int) -> Any:
        return Held()

    def advance(self, inner: Held, call: Call) -> tuple[Tensor, Any]:
        q, k, v = self._parts(call)
        after = inner.append((k, v), call.k_at(k.shape[2]))
        call = call.with_(k_positions=after.positions)
        k, v = after.parts
        self._room(len(q), q.shape[2], k.shape[2])
        gaps = call.q_at(q.shape[2], k.shape[2])[:, None, :, None] - call.k_at(k.shape[2])[:, None, None, :]
        return self._filtered(q, k, v, self._tables(gaps.abs(), q), call), after

    def _parts(self, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each turned back to time 0, in at least float32."""
        q, k, v = (split(part(call.tokens), self.heads) for part in (self.q, self.k, self.v))
        q, k, v = (t.to(torch.promote_types(t.dtype, torch.float32)) for t in (q, k, v))
        back, omega = -self._times(call.q_at(q.shape[2], q.shape[2]), q), self._omega(q)
        return turned(q, omega, back), turned(k, omega, back), turned(v, omega if self.turn_values else None, back)

    def _filtered(self, q: Tensor, k: Tensor, v: Tensor, tables: Tables, call: Call) -> Tensor:
        N, M = q.shape[2], k.shape[2]
        out = estimates(weights(q, k, tables, call.visible(N, M), **self._how(q)), v, tables)
        own = v[:, :, M - N :]
        if self.gain is not None:
            g = torch.sigmoid(self.gain.to(q.dtype))[:, None, None]
            out = g * out + (1 - g) * own
        at, omega = self._times(call.q_at(N, M), q), self._omega(q)
        if self.turn_values:
            out = turned(out, omega, at + self.dt if self.predict else at)
        elif self.predict:
            out = turned(out, omega, torch.full_like(at, self.dt))
        if self.predict and self.decay is not None:
            fades = (-self.dt * self._alpha(self.decay)).to(out.dtype).exp()
            out = (fades[:, None].repeat(1, 1, 2) if self.anisotropic else fades[:, None, None]) * out
        if self.scale is not None:
            mean = (2 * out.square().mean(-1, keepdim=True) + FLOOR).rsqrt()  # of squared complex features
            out = out * mean * torch.cat([self.scale, self.scale], -1).to(out.dtype)[:, None]
        return self.out(join(out).to(call.tokens.dtype))

    def _how(self, like: Tensor) -> dict[str, Any]:
        """How residuals become weights."""
        d = self.width // 2
        freedom = above(self.freedom, 2 * math.sqrt(2 * d) / (d * (self.variances[1] + self.variances[2])))
        return {
            "freedom": freedom.to(like.dtype)[:, None, None],
            "sharpness": self.sharpness.to(like.dtype)[:, None, None],
            "robust": self.robust,
            "product": self.residual == "product",
        }

    def _whole(self, call: Call, like: Tensor) -> Tables:
        """The tables of a call on whole sequences."""
        N = like.shape[2]
        self._room(len(like), N, N)
        if call.k_positions is None:
            return self._tables(torch.arange(N, device=like.device)[None, None, None], like).by_distance()
        return self._tables((call.q_at(N, N)[:, None, :, None] - call.k_at(N)[:, None, None, :]).abs(), like)

    def _tables(self, gaps: Tensor, like: Tensor) -> Tables:
        """What depends on distances [B|1, 1, n, m] of positions, for every head, and every feature if anisotropic."""
        D = self._times(gaps, like)
        slope = None if self.slope is None else above(self.slope, SLOPE).to(D.dtype)[:, None, None] / self.dt

        def each(raw: Tensor) -> Tensor:  # [H] or [H, d], along the axes of the table
            return raw.to(D.dtype)[:, None, None]

        if self.anisotropic:
            D, slope = D[..., None], None if slope is None else slope[..., None]
        alpha = torch.zeros_like(D[:, :1, :1, :1]) if self.decay is None else each(self._alpha(self.decay))
        starts = self.variances if self.process else self.variances[1:]
        found = []
        for noise in self.noise:
            *process, eta2, gamma2 = (each(above(raw, at)) for raw, at in zip(noise, starts, strict=True))
            found.append(carried_variance(D, alpha, process[0] if process else None, eta2, gamma2))
        prior = -found[-1].log() if self.bias == "variance" else torch.zeros_like(found[0])
        return Tables((-alpha * D).exp(), found[0], prior if slope is None else prior - slope * D)

    def _times(self, positions: Tensor, like: Tensor) -> Tensor:
        """Times, and spans of time, from those of positions, in the precision of `like`."""
        return positions.to(like.dtype) * self.dt

    def _alpha(self, raw: Tensor) -> Tensor:
        """Decays of raw parameters: between LEAST and a little more than MOST / steps, a step."""
        wide = raw.to(torch.promote_types(raw.dtype, torch.float32))
        return ((1 - torch.sigmoid(wide)) * MOST / self.steps + LEAST) / self.dt

    def _raw(self) -> float:
        """What a raw parameter is where the decay is `alpha`."""
        if self.alpha is None:
            return 0.0
        share = (self.alpha * self.dt - LEAST) * self.steps / MOST
        if not 0 < share < 1:
            low, high = LEAST / self.dt, (MOST / self.steps + LEAST) / self.dt
            raise ValueError(
                f"AdaptiveFilterAttention.alpha must lie between {low:.3g} and {high:.3g}, which is about 5 / (steps * "
                f"dt); got {self.alpha}. Type another alpha, fewer steps, or decay=False for none."
            )
        return math.log(1 - share) - math.log(share)

    def _omega(self, like: Tensor) -> Tensor | None:
        """Frequencies [H|1, width / 2]; None where nothing turns."""
        half = self.width // 2
        if self.frequencies == "none":
            return None
        if self.frequencies == "rope":
            # Rotary positions turn queries and keys forward, this turns them back: the signs are opposite.
            steps = 10_000.0 ** -(torch.arange(half, device=like.device, dtype=like.dtype) / half)
            return -steps[None] / self.dt
        turn = self.frequency.to(like.dtype) * (10 * 2 * math.pi / (2 * self.steps * self.dt))
        return F.pad(torch.cat([turn, -turn], -1), (0, half % 2))

    def _room(self, B: int, N: int, M: int) -> None:
        """Raise ValueError where tables by feature would be above the limit."""
        size = B * self.heads * N * M * (self.width // 2)
        if self.anisotropic and size > self.limit:
            raise ValueError(
                f"AdaptiveFilterAttention(anisotropic=True) makes tables of batch * heads * {N} * {M} * features "
                f"= {size:,} numbers, above limit={self.limit:,}. Type anisotropic=False or limit={size}, or give "
                "fewer or shorter sequences."
            )

    def _checked(self, decay: bool, separate_noise: bool) -> None:
        """Raise ValueError or ShapeError for settings that do not fit or do not go together."""
        name = "AdaptiveFilterAttention"
        if self.width % 2:
            raise ShapeError(
                f"{name} reads a head as real and imaginary halves, and its width {self.dim} / {self.heads} = "
                f"{self.width} is odd. Type dim={2 * self.dim}, or other heads."
            )
        if self.robust and self.residual == "product":
            raise ValueError(
                f"{name}: a product may be negative and has no place in the robust logarithm. Type "
                "residual='product', robust=False."
            )
        if separate_noise and self.bias != "variance":
            raise ValueError(
                f"{name}: only bias='variance' reads the values' own variances; got bias={self.bias!r}. Type "
                "separate_noise=False, or bias='variance'."
            )
        if len(self.variances) != 3 or not all(FLOOR < one < math.inf for one in self.variances):
            raise ValueError(
                f"{name}.variances must be three numbers above {FLOOR:g}, of process, keys and queries; got "
                f"{self.variances}. Type process=False for a system without noise of its own."
            )
        if not 0 < self.dt < math.inf:
            raise ValueError(f"{name}.dt must be above 0; got {self.dt}.")
        if self.alpha is not None and not decay:
            raise ValueError(f"{name}: alpha is a decay, and decay=False; got alpha={self.alpha}. Type decay=True.")


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
