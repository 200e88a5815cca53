"""Fastmax: attention whose weights are a polynomial of the product, so that they factorise exactly."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.errors import Unsupported
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer
from regard.ops import Memory, recur

_MOST = 1 << 16  # features of a head: at more, what a head keeps is larger than the scores of most sequences


class Fastmax(Mixer):
    """Row-normalised attention with f(x) = a0 + a1 x + a2 x^2 for exp(x), computed through features of q and k.

    `p` is the degree, `coeffs` its a0 .. ap (None: Taylor's). x is q k / temperature after `normalise`: `"standard"`
    centres each query and key and divides it by its deviation, `"l2"` by its length, `"max"` (not causal) centres it
    and divides by the greatest length of any token, `"none"` leaves it. `temperature` None is sqrt(D) for `"standard"`
    (D at p=1, so that no weight is below 0), 1 for `"l2"` and `"max"`, 8 sqrt(D) for `"none"`. Features, 1 + D at p=1
    and 1 + D + D (D + 1) / 2 at p=2, are made for `chunk` tokens at a time and made again for the gradients.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E]. Kept per head in decoding: features x
    (E + 1).
    Raises: ValueError for a setting out of range, for coefficients that make a weight negative, and for more features
    than 65,536; Unsupported for `normalise="max"` in causal order or with packed documents.
    Source: "FAST: Factorizable Attention for Speeding up Transformers", 2402.07901, section 2; its released code.
    Differs from the paper: sqrt(D) as the temperature; products of two features are held once, not twice; `"l2"` is a
    causal stand-in for the code's `"max"`; dropout is left out.
    """

    spec: ClassVar[Spec] = Spec(
        id="fastmax",
        slot="mixer",
        source=Source(
            "FAST: Factorizable Attention for Speeding up Transformers",
            "2402.07901",
            "section 2",
            authors="Gerami, Armin and Hoover, Monte and Dulepet, Pranav S. and Duraiswami, Ramani",
        ),
        what="Attention between all tokens with a polynomial in place of the exponential, which factorises exactly.",
        formula="out_i = sum_j f(q_i k_j / T) v_j / sum_j f(q_i k_j / T),  f(x) = 1 + x + x^2 / 2  (p = 1: 1 + x)\n"
        "f(q k / T) = phi(q) phi(k),  phi(u) = [1, u, all u_a u_b with a <= b]",
        cross=True,
        cost=Cost(time=1, state=0),
        limits=(
            Limit("polynomial_weights"),
            Limit("polynomial_weights", p=1),
            Limit("polynomial_weights", normalise="l2", chunk=4),
            Limit("polynomial_weights", normalise="none", coeffs=(2.0, 1.0, 0.5)),
            Limit("running_mean", coeffs=(1.0, 0.0, 0.0)),
        ),
        variants=({"p": 1, "normalise": "l2"},),
    )

    def __init__(
        self,
        head_dim: int,
        *,
        p: int = 2,
        normalise: str = "standard",
        temperature: float | None = None,
        coeffs: tuple[float, ...] | None = None,
        chunk: int = 256,
    ) -> None:
        super().__init__()
        self.head_dim, self.p, self.normalise, self.chunk = head_dim, p, normalise, chunk
        if p not in (1, 2):
            raise ValueError(f"Fastmax.p must be 1 or 2; got {p}.")
        self.one_of("normalise", ("standard", "l2", "max", "none"))
        self.at_least(chunk=1)
        usual = {"standard": float(head_dim) if p == 1 else head_dim**0.5, "none": 8 * head_dim**0.5}
        self.temperature = usual.get(normalise, 1.0) if temperature is None else temperature
        if not self.temperature > 0:
            raise ValueError(f"Fastmax.temperature must be above 0; got {temperature}.")
        self.coeffs = (1.0, 1.0, 0.5)[: p + 1] if coeffs is None else tuple(coeffs)
        self.features = 1 + head_dim + (head_dim * (head_dim + 1) // 2 if p == 2 else 0)
        if self.features > _MOST:
            raise ValueError(
                f"Fastmax.p=2 makes {self.features} features of head_dim={head_dim}. Type p=1, or more heads."
            )
        self._positive()

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        if self.normalise == "max" and (call.causal or call.documents is not None):
            raise Unsupported(
                "Fastmax divides by the greatest length of any token, later ones and other documents too. Type "
                "normalise='l2' or 'standard'."
            )
        q, k = self._normed(q, call.q_real), self._normed(k, call.real)
        if call.causal:
            return self._forwards(q, k, v, call.real, _begins(call), None)[0].to(v.dtype)
        wide = torch.cat([v.to(k.dtype), torch.ones_like(v[..., :1], dtype=k.dtype)], -1)
        real = call.real
        if real is not None:
            k, wide = (x.masked_fill(~real[:, None, :, None], 0.0) for x in (k, wide))
        sums = self._whole(q, k, wide) if call.documents is None else self._sides(q, k, wide, call)
        weight = sums[..., -1:]
        return (sums[..., :-1] / torch.where(weight == 0, 1.0, weight)).to(v.dtype)

    def init_state(self, batch: int, held: Held) -> Memory | None:
        return None

    def step(self, state: Memory | None, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Memory]:
        if self.normalise == "max":
            raise Unsupported("Fastmax with normalise='max' looks at all tokens at once. Type normalise='l2'.")
        out, after = self._forwards(self._normed(q, None), self._normed(k, None), v, call.real, None, state)
        return out.to(v.dtype), after

    def weights(self, q: Tensor, k: Tensor, *, causal: bool = False, most: int = 4096) -> Tensor:
        """The weights [B, H, N, M] of queries [B, H, N, D] and keys [B, H, M, D], which the mixer never makes.

        Raises: ValueError for more than `most` keys.
        """
        if k.shape[2] > most:
            raise ValueError(f"Fastmax.weights of {k.shape[2]} keys is large. Type most={k.shape[2]}.")
        x = self._normed(q, None) @ self._normed(k, None).transpose(-1, -2) / self.temperature
        made = sum(a * x**n for n, a in enumerate(self.coeffs))
        assert isinstance(made, Tensor)
        made = made.tril(k.shape[2] - q.shape[2]) if causal else made
        return made / made.sum(-1, keepdim=True)

    def _positive(self) -> None:
        """Raise ValueError unless f is nowhere negative on the products that can come."""
        if len(self.coeffs) != self.p + 1:
            raise ValueError(f"Fastmax.coeffs must be {self.p + 1} numbers at p={self.p}; got {self.coeffs}.")
        a0, a1, a2 = (*self.coeffs, 0.0)[:3]
        reach = {"standard": self.head_dim / self.temperature, "none": math.inf}.get(
            self.normalise, 1 / self.temperature
        )
        lowest = -abs(a1) / (2 * a2) if a2 > 0 else -reach
        at = max(lowest, -reach)  # |a1| for a1: f is looked at on both sides
        least = a0 if a1 == a2 == 0 else -math.inf if math.isinf(at) else a0 + abs(a1) * at + a2 * at * at
        if least < 0 or a0 <= 0:
            raise ValueError(
                f"Fastmax.coeffs={self.coeffs} makes weights negative, or all of them 0, for products up to "
                f"{reach:g}. Type p=2 with coeffs=None, another normalise, or a higher temperature."
            )

    def _normed(self, x: Tensor, real: Tensor | None) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.normalise in ("standard", "max"):
            x = x - x.mean(-1, keepdim=True)
        if self.normalise == "standard":
            return x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
        if self.normalise == "l2":
            return torch.nn.functional.normalize(x, dim=-1)
        if self.normalise == "max":
            if real is not None:
                x = x.masked_fill(~real[:, None, :, None], 0.0)
            return x / x.norm(dim=-1, keepdim=True).amax(2, keepdim=True).clamp(min=1e-6)
        return x

    def _phi(self, x: Tensor, *, query: bool) -> Tensor:
        """Features [..., F]; those of queries have the coefficients and the temperature in them."""
        factors = [a / self.temperature**n if query else 1.0 for n, a in enumerate(self.coeffs)]
        parts = [torch.full_like(x[..., :1], factors[0]), x * factors[1]]
        if self.p == 2:
            a, b = torch.triu_indices(self.head_dim, self.head_dim, device=x.device)
            twice = torch.where(a == b, 1.0, 2.0).to(x.dtype) * factors[2] if query else factors[2]
            parts.append(x[..., a] * x[..., b] * twice)
        return torch.cat(parts, -1)

    def _forwards(
        self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None, begins: Tensor | None, state: Memory | None,
        *, sums: bool = False,
    ) -> tuple[Tensor, Memory]:  # fmt: skip
        """Outputs in causal order, or with `sums` what is to be divided; `begins` [B|1, N]: where all is forgotten."""
        decay = None if begins is None else torch.where(begins, -torch.inf, 0.0)[:, None].expand(-1, k.shape[1], -1)

        def span(here: slice, values: Tensor | None, total: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
            out, after = recur(
                self._phi(q[:, :, here], query=True),
                self._phi(k[:, :, here], query=False),
                v[:, :, here].to(k.dtype),
                decay=None if decay is None else decay[:, :, here],
                normalise="none" if sums else "sum",
                real=None if real is None else real[:, here],
                state=None if values is None else Memory(values, total),
                keep=True,
            )
            return out, after.values, after.total

        outs, values, total = [], None if state is None else state.values, None if state is None else state.total
        for first in range(0, q.shape[2], self.chunk):
            out, values, total = self._again(q, span, slice(first, first + self.chunk), values, total)
            outs.append(out)
        assert values is not None
        return torch.cat(outs, 2), Memory(values, total)

    def _sides(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        """Sums over each token's document: what is before it, what is behind it, and itself once."""
        before = _begins(call)
        assert before is not None
        assert call.documents is not None
        real = call.q_real
        backwards = call.with_(
            documents=-call.documents.flip(1),
            q_positions=None if real is None else torch.where(real.flip(1), 0, -1),
        )
        ahead, _ = self._forwards(q, k, v, real, before, None, sums=True)
        behind, _ = self._forwards(
            q.flip(2), k.flip(2), v.flip(2), None if real is None else real.flip(1), _begins(backwards), None, sums=True
        )
        repeats = q.shape[1] // k.shape[1]
        keys, own = (x.repeat_interleave(repeats, 1) for x in (k, v))
        x = (q * keys).sum(-1, keepdim=True) / self.temperature
        return ahead + behind.flip(2) - sum(a * x**n for n, a in enumerate(self.coeffs)) * own

    def _whole(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Sums over all keys; what is padding is zero in both k and v."""

        def write(here: slice) -> Tensor:
            return self._phi(k[:, :, here], query=False).transpose(-1, -2) @ v[:, :, here]

        def read(here: slice, kept: Tensor) -> Tensor:
            asked = self._phi(q[:, :, here], query=True).unflatten(1, (kept.shape[1], -1))
            return (asked @ kept.unsqueeze(2)).flatten(1, 2)

        spans = [slice(first, first + self.chunk) for first in range(0, k.shape[2], self.chunk)]
        kept = torch.stack([self._again(k, write, here) for here in spans]).sum(0)
        spans = [slice(first, first + self.chunk) for first in range(0, q.shape[2], self.chunk)]
        return torch.cat([self._again(q, read, here, kept) for here in spans], 2)

    def _again(self, x: Tensor, work, *given):  # type: ignore[no-untyped-def]
        """`work(*given)`, done a second time for the gradients where there are several spans of features to hold."""
        if x.shape[2] <= self.chunk or not torch.is_grad_enabled():
            return work(*given)
        return checkpoint(work, *given, use_reentrant=False)


def _begins(call: Call) -> Tensor | None:
    """Boolean [B|1, N]: the first real token of each document; None where there is one document."""
    if call.documents is None:
        return None
    first = call.starts == torch.arange(call.documents.shape[1], device=call.documents.device)
    return first if call.q_real is None else first & call.q_real
