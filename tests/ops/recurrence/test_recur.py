"""Every form of the recurrence equals the unrolled one, in float64."""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.ops import Memory, recur
from regard.ops.recurrence import RECURRENCES
from tests.ops.recurrence.oracle import unrolled

B, H, G, N, D, E = 2, 4, 2, 23, 4, 3
SOURCE = torch.Generator().manual_seed(0)


def rand(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=SOURCE, dtype=torch.float64)


Q, K, V = rand(B, H, N, D), rand(B, G, N, D), rand(B, G, N, E) - 0.5
UNIT = F.normalize(K, dim=-1)
REAL = torch.ones(B, N, dtype=torch.bool)
REAL[0, :3] = REAL[1, -2:] = REAL[1, 7] = False
DOCUMENTS = torch.tensor([[0] * 9 + [1] * 8 + [2] * 6, [0] * 4 + [3] * 19])
DECAYS = {
    "none": None,
    "number": -0.3,
    "head": -rand(G),
    "channel": -rand(G, D),
    "token": -3 * rand(B, G, N),
    "token for all rows": -rand(1, G, N),
    "token and channel": -4 * rand(B, G, N, D),
}
WRITES = [("add", "none"), ("add", "sum"), ("add", "softmax"), ("delta", "none")]


BETA = rand(B, G, N)


def settings(decay: str, write: str, normalise: str, causal: bool, padded: bool, packed: bool) -> dict[str, Any]:
    return {
        "decay": DECAYS[decay], "write": write, "normalise": normalise, "causal": causal,
        "real": REAL if padded else None, "documents": DOCUMENTS if packed else None,
        "beta": None if normalise == "softmax" else BETA,
    }  # fmt: skip


@cache
def wanted(*names: Any) -> Tensor:
    """The unrolled result, once for all engines."""
    return unrolled(Q, UNIT if names[1] == "delta" else K, V, **settings(*names))


@pytest.mark.parametrize("engine", sorted(RECURRENCES))
@pytest.mark.parametrize(("write", "normalise"), WRITES)
@pytest.mark.parametrize("decay", DECAYS)
def test_every_form_is_the_unrolled_one(decay: str, write: str, normalise: str, engine: str) -> None:
    for causal, padded, packed in itertools.product((True, False), repeat=3):
        if not causal and (write == "delta" or (normalise == "softmax" and decay != "none")):
            continue
        names = (decay, write, normalise, causal, padded, packed)
        got = recur(Q, UNIT if write == "delta" else K, V, chunk=4, engine=engine, **settings(*names))
        shown = REAL if padded else slice(None)
        torch.testing.assert_close(
            got.transpose(1, 2)[shown], wanted(*names).transpose(1, 2)[shown], rtol=0, atol=1e-10, msg=repr(names)
        )


@pytest.mark.parametrize("engine", sorted(RECURRENCES))
@pytest.mark.parametrize(("write", "normalise"), WRITES)
@pytest.mark.parametrize("decay", ["none", "head", "token and channel"])
def test_what_is_kept_goes_on(decay: str, write: str, normalise: str, engine: str) -> None:
    """In parts of any length, one token among them, by any engine after any other."""
    k, fade = UNIT, DECAYS[decay]
    whole = recur(Q, k, V, decay=fade, write=write, normalise=normalise)
    for other in RECURRENCES:
        state: Memory | None = None
        outs, first = [], 0
        for length in (9, 1, 1, 12):
            here = slice(first, first + length)
            part = fade if fade is None or fade.dim() < 3 else fade[:, :, here]
            before = None if state is None else (state.values.clone(), state.total)
            out, after = recur(
                Q[:, :, here], k[:, :, here], V[:, :, here], decay=part, write=write, normalise=normalise, state=state,
                chunk=4, keep=True, engine=engine if first % 2 else other,
            )  # fmt: skip
            if state is not None and before is not None:
                assert torch.equal(state.values, before[0])
            outs.append(out)
            state, first = after, first + length
        torch.testing.assert_close(torch.cat(outs, 2), whole, rtol=0, atol=1e-10)
        assert state is not None
        assert state.values.shape == (B, G, D, E)
        assert (state.total is None) == (normalise == "none")


@pytest.mark.parametrize(("write", "normalise"), WRITES)
@pytest.mark.parametrize("decay", ["none", "token", "token and channel"])
def test_gradients_are_those_of_the_definition(decay: str, write: str, normalise: str) -> None:
    fade = DECAYS[decay]
    inputs = [x.clone().requires_grad_() for x in (Q, UNIT, V, *([] if fade is None else [fade]))]
    up = rand(B, H, N, E)

    def slopes(engine: str) -> tuple[Tensor, ...]:
        q, k, v, *rest = inputs
        out = recur(
            q, k, v, decay=rest[0] if rest else None, write=write, normalise=normalise, documents=DOCUMENTS, chunk=8,
            engine=engine,
        )  # fmt: skip
        return torch.autograd.grad((out * up).sum(), inputs)

    want = slopes("reference")
    for engine in ("chunked", "parallel"):
        for got, known in zip(slopes(engine), want, strict=True):
            assert torch.isfinite(got).all()
            torch.testing.assert_close(got, known, rtol=0, atol=1e-9)


def test_the_chunk_does_not_matter() -> None:
    fade = DECAYS["token and channel"]
    want = recur(Q, K, V, decay=fade, engine="reference")
    for chunk in (1, 2, 8, 16, 64):
        torch.testing.assert_close(recur(Q, K, V, decay=fade, chunk=chunk, engine="chunked"), want, rtol=0, atol=1e-12)


def test_the_scale_is_on_the_queries() -> None:
    want = recur(Q * 0.25, K, V, decay=-0.1)
    torch.testing.assert_close(recur(Q, K, V, decay=-0.1, scale=0.25), want, rtol=0, atol=1e-12)


def test_no_tokens_and_one() -> None:
    for engine in RECURRENCES:
        out, kept = recur(Q[:, :, :0], K[:, :, :0], V[:, :, :0], keep=True, engine=engine)
        assert out.shape == (B, H, 0, E)
        assert not kept.values.any()
        one = recur(Q[:, :, :1], K[:, :, :1], V[:, :, :1], normalise="sum", engine=engine)
        torch.testing.assert_close(one, V[:, :, :1].repeat_interleave(H // G, 1))


def test_only_padding_gives_zeros() -> None:
    hidden = torch.zeros(B, N, dtype=torch.bool)
    for engine in RECURRENCES:
        for normalise in ("none", "sum", "softmax"):
            k = K.clone().requires_grad_()
            out = recur(Q, k, V, normalise=normalise, real=hidden, engine=engine)
            assert not out.any()
            out.sum().backward()
            assert k.grad is not None
            assert not k.grad.any()
