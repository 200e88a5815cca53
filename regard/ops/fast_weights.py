"""A small network whose weights are learned while it reads: gradient steps with momentum and forgetting, by chunks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from regard.errors import ShapeError
from regard.ops.recurrence.products import between, until


@dataclass(frozen=True, eq=False)
class Writing:
    """How strongly tokens write: the size of a step, and the logarithms of what stays of the momentum and the weights.

    Shapes: [B, M, n] each.
    """

    step: Tensor
    momentum: Tensor
    keep: Tensor


@dataclass(frozen=True, eq=False)
class FastWeights:
    """Weights and momentum as they were when the open chunk began, and the tokens that it has so far.

    A token's gradient is an outer product for each layer, so that it is kept as the two vectors that make it.

    Shapes: weights, momentum [B, M, D_in, D_out] for each layer; inputs [B, M, u, D_in] and errors [B, M, u, D_out] for
    each layer; writing [B, M, u].
    """

    weights: tuple[Tensor, ...]
    momentum: tuple[Tensor, ...]
    inputs: tuple[Tensor, ...]
    errors: tuple[Tensor, ...]
    writing: Writing


def fast_weights(initial: tuple[Tensor, ...], batch: int) -> FastWeights:
    """The state before the first token, with `initial` weights [M, D_in, D_out] for each layer.

    Raises: ShapeError where the layers do not follow each other.
    """
    for a, b in pairwise(initial):
        if a.shape[0] != b.shape[0] or a.shape[2] != b.shape[1]:
            raise ShapeError(f"fast weights {list(a.shape)} can't be followed by {list(b.shape)}: widths must agree.")
    weights = tuple(w.expand(batch, *w.shape) for w in initial)
    none = initial[0].new_zeros(batch, initial[0].shape[0], 0)
    return FastWeights(
        weights,
        tuple(torch.zeros_like(w) for w in weights),
        tuple(none[..., None].expand(-1, -1, -1, w.shape[2]) for w in weights),
        tuple(none[..., None].expand(-1, -1, -1, w.shape[3]) for w in weights),
        Writing(none, none, none),
    )


def learn(
    state: FastWeights, q: Tensor, k: Tensor, v: Tensor, writing: Writing, *, chunk: int, before: bool = False
) -> tuple[Tensor, FastWeights]:
    """What the network gives for each token's query after it has learned the token (or before), and the state after.

    Every token asks for v where it gives k: S_t = momentum_t S_{t-1} - step_t grad |net(k_t) - v_t|^2, and the weights
    are keep_t W_{t-1} + S_t. All gradients of a chunk are taken at the weights with which the chunk began, so that a
    chunk is matrix products; with `chunk=1` they are taken at the latest weights. Between layers there is SiLU.

    Shapes: q, k [B, M, n, D]; v [B, M, n, E]; writing [B, M, n]; result [B, M, n, E].
    """
    outs, n, first = [], q.shape[2], 0
    while first < n:
        here = slice(first, first + chunk - state.inputs[0].shape[2])
        now = Writing(writing.step[..., here], writing.momentum[..., here], writing.keep[..., here])
        out, state = _some(state, q[:, :, here], k[:, :, here], v[:, :, here], now, chunk, before)
        outs.append(out)
        first = here.stop
    return (torch.cat(outs, 2) if outs else v), state


def _some(
    state: FastWeights, q: Tensor, k: Tensor, v: Tensor, now: Writing, chunk: int, before: bool
) -> tuple[Tensor, FastWeights]:
    """Tokens of one chunk, which they may end."""
    n, u = q.shape[2], state.inputs[0].shape[2]
    new_inputs, new_errors = _gradients(state.weights, k, v)
    inputs = tuple(torch.cat(pair, 2) for pair in zip(state.inputs, new_inputs, strict=True))
    errors = tuple(torch.cat(pair, 2) for pair in zip(state.errors, new_errors, strict=True))
    step, momentum, keep = (
        torch.cat([getattr(state.writing, name), getattr(now, name)], -1) for name in ("step", "momentum", "keep")
    )
    # What is left at t of the step taken at s, and of the momentum at t of the gradient of j; S_t sums the second, and
    # the weights at t sum the first times the second.
    stays, carries = between(keep).exp(), between(momentum).exp()
    steps = (stays @ carries) * -step[..., None, :]
    old, pushed = until(keep, -1).exp(), (stays @ until(momentum, -1).exp()[..., None])[..., 0]
    weights, pushes = state.weights, state.momentum
    # Row t + 1 is how the network stands after token t, row 0 how it stood at first.
    after = (F.pad(steps, (0, 0, 1, 0)), torch.cat([torch.ones_like(old[..., :1]), old], -1), F.pad(pushed, (1, 0)))
    rows = slice(u, u + n) if before else slice(u + 1, u + n + 1)
    steps_read, old_read, pushed_read = (x[:, :, rows] for x in after)
    out = q
    for layer, (W, S) in enumerate(zip(weights, pushes, strict=True)):
        out = out if not layer else F.silu(out)
        written = (out @ inputs[layer].transpose(-1, -2) * steps_read) @ errors[layer]
        out = old_read[..., None] * (out @ W) + pushed_read[..., None] * (out @ S) + written
    writing = Writing(step, momentum, keep)
    if u + n < chunk:
        return out, FastWeights(weights, pushes, inputs, errors, writing)
    own = (carries[..., -1, :] * -step)[..., None]
    left = until(momentum, -1).exp()[..., -1, None, None]
    more = steps[..., -1, :, None]
    ended = tuple(
        (
            old[..., -1, None, None] * W + pushed[..., -1, None, None] * S + x.transpose(-1, -2) @ (more * e),
            left * S + x.transpose(-1, -2) @ (own * e),
        )
        for W, S, x, e in zip(weights, pushes, inputs, errors, strict=True)
    )
    none = slice(0, 0)
    return out, FastWeights(
        tuple(W for W, _ in ended),
        tuple(S for _, S in ended),
        tuple(x[:, :, none] for x in inputs),
        tuple(e[:, :, none] for e in errors),
        Writing(step[..., none], momentum[..., none], keep[..., none]),
    )


def _gradients(weights: tuple[Tensor, ...], k: Tensor, v: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """What goes into each layer and what its output should have had less of, for each token."""
    inputs, sums = [], []
    x = k
    for layer, W in enumerate(weights):
        x = x if not layer else F.silu(x)
        inputs.append(x)
        x = x @ W
        sums.append(x)
    error = 2 * (x - v)
    errors = [error]
    for layer in range(len(weights) - 1, 0, -1):
        z = sums[layer - 1]
        gate = torch.sigmoid(z)
        error = (error @ weights[layer].transpose(-1, -2)) * gate * (1 + z * (1 - gate))
        errors.append(error)
    return inputs, errors[::-1]
