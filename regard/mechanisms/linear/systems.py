"""Attention, state space models and gated recurrences as one linear system that varies in time."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.mixer import Mixer
from regard.mechanisms.walk import walk
from regard.ops import recur
from regard.ops.recurrence import Seen, watched
from regard.ops.recurrence.normalise import log_weights
from regard.ops.recurrence.problem import blank, each_token, fading
from regard.ops.recurrence.sides import starts


@dataclass(frozen=True, eq=False)
class System:
    """h_t = L_t h_{t-1} + B_t u_t and y_t = C_t h_t + D_t u_t for each head, h [n, E] and h = 0 before the first token.

    Parts of two systems of one size may be put together with `dataclasses.replace`.

    Shapes: `stays` L, its diagonal [B|1, H, N, n] or whole [B|1, H, N, n, n]; `writes` B [B|1, H, N, n]; `reads` C
    [B|1, H, N, n]; `inputs` u [B, H, N, E]; `direct` D [B|1, H, N|1], None for none.
    Source: "Understanding the differences in Foundation Models", 2405.15731, section 2.
    """

    stays: Tensor
    writes: Tensor
    reads: Tensor
    inputs: Tensor
    direct: Tensor | None = None

    @property
    def size(self) -> int:
        """Numbers in the state of one head."""
        return self.writes.shape[-1] * self.inputs.shape[-1]

    @property
    def whole(self) -> bool:
        """Whether L is a whole matrix, not a diagonal."""
        return self.stays.dim() == 5

    @property
    def form(self) -> str:
        """What L is: "identity", "scalar" where a head has one number, "diagonal" or "matrix"."""
        if self.whole:
            return "matrix"
        if bool((self.stays == 1).all()):
            return "identity"
        return "scalar" if bool((self.stays == self.stays[..., :1]).all()) else "diagonal"

    @property
    def radius(self) -> Tensor:
        """The largest absolute eigenvalue of L for each head [H]: below 1 every head forgets."""
        found = torch.linalg.eigvals(self.stays).abs() if self.whole else self.stays.abs()
        return found.amax(-1).amax((0, 2))

    def run(self) -> Tensor:
        """The outputs y [B, H, N, E], by a scan that doubles."""
        h = self.writes[..., None] * self.inputs[..., None, :]
        L = self.stays if self.whole else self.stays[..., None]
        step = 1
        while step < h.shape[2]:
            late, early = L[:, :, step:], L[:, :, :-step]
            h = torch.cat([h[:, :, :step], h[:, :, step:] + self._times(late, h[:, :, :-step])], 2)
            L = torch.cat([L[:, :, :step], self._times(late, early)], 2)
            step *= 2
        out = (self.reads[..., None, :] @ h)[..., 0, :]
        return out if self.direct is None else out + self.direct[..., None] * self.inputs

    def kernel(self) -> Tensor:
        """What each token's input adds to each output, [B, H, N, N]: C_i L_i ... L_{j+1} B_j, and D_i where i = j."""
        N = self.inputs.shape[2]
        lead = torch.broadcast_shapes(self.stays.shape[:2], self.writes.shape[:2], self.reads.shape[:2])
        kept = self.writes.new_zeros(*lead, N, self.writes.shape[-1])
        rows = []
        for i in range(N):
            L = self.stays[:, :, i]
            kept = kept @ L.transpose(-1, -2) if self.whole else kept * L[:, :, None]
            here = (torch.arange(N, device=kept.device) == i)[:, None]
            kept = torch.where(here, self.writes[:, :, i, None], kept)
            rows.append((kept @ self.reads[:, :, i, :, None])[..., 0])
        found = torch.stack(rows, 2)
        return found if self.direct is None else found + torch.diag_embed(self.direct.expand(*lead, N))

    def _times(self, a: Tensor, b: Tensor) -> Tensor:
        return a @ b if self.whole else a * b


def linear_attention(q: Tensor, k: Tensor, v: Tensor, *, eta: Tensor | None = None, divide: bool = False) -> System:
    """Linear attention of features q, k [B, H, N, n] and values [B, H, N, E].

    `eta` [B, H, N], above 0, is what outputs are divided by, and stands in L and B as the paper puts it;
    `divide=True` divides by the sum of the weights, which reads the query and so stands in C.

    Raises: ValueError where eta is not above 0.
    """
    stays = torch.ones_like(k)
    if eta is not None:
        if not bool((eta > 0).all()):
            raise ValueError(f"eta must be above 0; got {float(eta.min())}. Take exp or softplus of it first.")
        before = torch.cat([eta[:, :, :1], eta[:, :, :-1]], 2)
        stays, k = stays * (before / eta)[..., None], k / eta[..., None]
    if divide:
        q = _over(q, (q * k.cumsum(2)).sum(-1, keepdim=True))
    return System(stays, k, q, v)


def gated_recurrence(forget: Tensor, write: Tensor, u: Tensor, read: Tensor | None = None) -> System:
    """h_t = forget_t h_{t-1} + write_t u_t, y_t = read_t h_t channel by channel: qLSTM, HGRN, RG-LRU.

    Shapes: all [B, N, C]; a head is a channel.
    """
    read = torch.ones_like(u) if read is None else read
    stays, writes, reads, inputs = (x.transpose(1, 2)[..., None] for x in (forget, write, read, u))
    return System(stays, writes, reads, inputs)


def selective_state_space(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor | None = None) -> System:
    """S6 of Mamba: h_t = exp(-delta_t A) h_{t-1} + delta_t B_t u_t, y_t = C_t h_t + D u_t.

    Shapes: u, delta [B, N, C], delta above 0; A [C, n], above 0; B, C [B, N, n]; D [C]. A head is a channel.
    Raises: ValueError where A or delta is below 0.
    """
    if bool((A < 0).any()) or bool((delta < 0).any()):
        raise ValueError("delta and A must be at least 0, or the state grows. Take softplus of delta and exp of log A.")
    steps = delta.transpose(1, 2)[..., None]
    reads = C[:, None].expand(-1, u.shape[2], -1, -1)
    direct = None if D is None else D[None, :, None]
    return System((-steps * A[:, None]).exp(), steps * B[:, None], reads, u.transpose(1, 2)[..., None], direct)


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, order: int, *, scale: float | None = None) -> System:
    """Softmax attention whose exponential is a Taylor polynomial of `order`: a state of 1 + D + ... + D^order rows.

    Shapes: q, k [B, H, N, D]; v [B, H, N, E]. `scale` defaults to D ** -0.5.
    Raises: ValueError for an order below 0.
    """
    if order < 0:
        raise ValueError(f"order must be at least 0; got {order}. Type order=4.")
    root = (q.shape[-1] ** -0.5 if scale is None else scale) ** 0.5
    return linear_attention(_powers(q * root, order), _powers(k * root, order), v, divide=True)


def taylor_error(q: Tensor, k: Tensor, order: int, *, scale: float | None = None) -> Tensor:
    """A bound of what a Taylor polynomial of `order` leaves out of exp(q k scale), [B, H, N, M]."""
    s = (q @ k.transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)).abs()
    return s ** (order + 1) / math.factorial(order + 1) * s.exp()


def convertible() -> list[str]:
    """The mechanisms that `to_dsf` converts, by id: those that stand on the recurrence, and softmax attention."""
    found = [name for name, kind in walk().items() if kind.spec.causal and _stands(kind)]
    return sorted([*found, "softmax"])


def to_dsf(module: nn.Module, *given: Tensor, order: int | None = None) -> System:
    """A mechanism at work as its dynamical system: a mixer on q, k, v, or a layer on tokens [B, N, dim], both causal.

    The system's outputs are those of the recurrence inside; what is then done to each token on its own, such as a norm,
    a gate or a map, stays outside. `order` is where softmax attention's exponential is cut off.

    Raises: ValueError for a mechanism without a state of fixed size, for softmax attention without an order, and for a
    layer of several recurrences; ShapeError for other inputs.
    """
    if isinstance(module, Mixer) and len(given) == 3:
        q, k, v = given
        tokens = q.transpose(1, 2).flatten(2)

        def work() -> object:
            return module(q, k, v, Call(tokens=tokens, memory=tokens, causal=True))

    elif isinstance(module, Layer) and len(given) == 1:

        def work() -> object:
            return module(given[0], causal=True)

    else:
        raise ShapeError("to_dsf takes a mixer with q, k, v [B, H, N, D], or a layer with tokens [B, N, dim].")
    plain = next((part for part in module.modules() if isinstance(part, Mixer) and part.spec.id == "softmax"), None)
    if plain is not None:
        if order is None:
            raise ValueError("Softmax attention's state has no bound: say where to cut its series off. Type order=4.")
        seen: list[Any] = []
        hook = plain.register_forward_hook(lambda part, inputs, out: seen.append(inputs))
        try:
            work()
        finally:
            hook.remove()
        q, k, v = seen[0][:3]
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        return softmax_attention(q, k, v, order, scale=getattr(plain, "scale", None))
    with watched() as calls:
        work()
    if not calls:
        name = type(getattr(module, "mixer", module)).__name__
        raise ValueError(f"{name} has no state of fixed size. Those that have: {', '.join(convertible())}.")
    return _system(calls, type(module).__name__)


def _stands(kind: type) -> bool:
    return vars(sys.modules[kind.__module__]).get("recur") is recur


def _system(calls: list[Seen], name: str) -> System:
    """One system from one recurrence, which may have been given its tokens in several spans."""
    for one, following in pairwise(calls):
        state = following.settings["state"]
        if state is None or not isinstance(one.out, tuple) or state.values is not one.out[1].values:
            raise ValueError(f"{name} holds {len(calls)} recurrences. Give to_dsf a part that holds one.")
    q, k, v = (torch.cat(parts, 2) for parts in zip(*((call.q, call.k, call.v) for call in calls), strict=True))
    first = calls[0].settings
    wide = torch.promote_types(v.dtype, torch.float32)
    q, k, v = q.to(wide) * first["scale"], k.to(wide), v.to(wide)
    fade = _joined([call.settings["decay"] for call in calls], k, 2)
    real, ids = (_joined([call.settings[key] for call in calls], None, 1) for key in ("real", "documents"))
    beta = _joined([call.settings["beta"] for call in calls], None, 2)
    begins = None if ids is None else starts(ids, real)
    if first["normalise"] == "softmax":
        made = log_weights(k, fade, real, begins, None, None, True)
        k, fade = made.keys, made.decay
    else:
        if real is not None:
            k = k.masked_fill(~real[:, None, :, None], 0.0)
        fade = blank(fade, k, real, begins)
    stays = torch.ones_like(k) if fade is None else _each(fade, k).exp()
    writes = k
    if beta is not None or first["write"] == "delta":
        amount = (torch.ones_like(k[..., 0]) if beta is None else beta.to(wide))[..., None]
        writes = amount * k
    if first["write"] == "delta":
        gone = torch.eye(k.shape[-1], dtype=wide, device=k.device) - writes[..., :, None] * k[..., None, :]
        stays = gone * stays[..., None, :]
    more = q.shape[1] // k.shape[1]
    stays, writes, v = (x.repeat_interleave(more, 1) for x in (stays.expand(*k.shape[:2], *stays.shape[2:]), writes, v))
    if first["normalise"] == "sum":
        q = _over(q, System(stays, writes, q, torch.ones_like(v[..., :1])).run())
    return System(stays, writes, q, v)


def _joined(parts: list[Any], k: Tensor | None, dim: int) -> Any:
    """A setting of all spans together; decays that are the same for every token stay as they are."""
    if parts[0] is None:
        return None
    if k is not None:
        spans = [fading(part, k) if not isinstance(part, Tensor) or part.dim() < 3 else part for part in parts]
        return spans[0] if spans[0].dim() < 3 else torch.cat(spans, dim)
    return torch.cat(parts, dim)


def _each(fade: Tensor, k: Tensor) -> Tensor:
    """Logarithms for every token and channel, [B|1, G, N, D]."""
    fade = each_token(fade, k.shape[2])
    return (fade[..., None] if fade.dim() == 3 else fade).expand(-1, -1, -1, k.shape[-1])


def _over(x: Tensor, by: Tensor) -> Tensor:
    none = by == 0
    return torch.where(none, 0.0, x / torch.where(none, 1.0, by))


def _powers(x: Tensor, order: int) -> Tensor:
    """1, x, x (x) x / sqrt(2), ...: features whose products are a Taylor polynomial of the exponential."""
    parts, last = [torch.ones_like(x[..., :1])], torch.ones_like(x[..., :1])
    for p in range(1, order + 1):
        last = (last[..., :, None] * x[..., None, :]).flatten(-2) / math.sqrt(p)
        parts.append(last)
    return torch.cat(parts, -1)
