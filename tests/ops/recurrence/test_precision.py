"""float32 and bfloat16 against float64; the bound is the error of the definition at the same precision."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.ops import recur, scan

N, D = 512, 16


def inputs(seed: int = 0, length: int = N) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(seed)
    q, k, v = (torch.randn(1, 2, length, D, generator=source) for _ in range(3))
    return q, F.normalize(k, dim=-1), v


def error(got: Tensor, want: Tensor) -> float:
    return float((got.double() - want).abs().max() / want.abs().max())


FADES = {
    "none": lambda n: None,
    "gentle": lambda n: -torch.rand(1, 2, n) * 0.01,
    "strong": lambda n: torch.full((1, 2, n), -30.0),
    "mixed": lambda n: torch.where(torch.rand(1, 2, n) < 0.05, -1e4, -1e-3),
    "channel": lambda n: -torch.rand(1, 2, n, D) * torch.tensor([1e-4, 1e-2, 1.0, 30.0]).repeat(D // 4),
}


@pytest.mark.parametrize("fade", FADES)
@pytest.mark.parametrize(("write", "normalise"), [("add", "none"), ("add", "softmax"), ("delta", "none")])
def test_chunks_lose_no_more_than_single_steps(fade: str, write: str, normalise: str) -> None:
    torch.manual_seed(1)
    q, k, v = inputs()
    decay = FADES[fade](N)
    settings = {"decay": decay, "write": write, "normalise": normalise}
    exact = recur(
        q.double(),
        k.double(),
        v.double(),
        engine="reference",
        **{**settings, "decay": None if decay is None else decay.double()},
    )
    # Sums of D and of the chunk's tokens are rounded in another order: a few units in the last place at least.
    allowed = 4 * max(error(recur(q, k, v, engine="reference", **settings), exact), 2**-23 * D**0.5)
    for engine in ("chunked", "parallel"):
        assert error(recur(q, k, v, engine=engine, **settings), exact) <= allowed


def test_no_overflow_at_length() -> None:
    """131072 tokens, decays from none to e^-30 a step and keys of any size stay finite and right."""
    n = 131072
    source = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 3, n, 4, generator=source) for _ in range(3))
    decay = torch.tensor([0.0, -1e-5, -30.0])
    out = recur(q, k, v, decay=decay)
    assert torch.isfinite(out).all()
    last = torch.arange(n - 1, -1, -1, dtype=torch.float64)
    weights = (k[0].double() @ q[0, :, -1, :, None].double())[..., 0] * (decay.double()[:, None] * last).exp()
    want = (weights[:, None] @ v[0].double())[:, 0]
    # The sum of n terms of either sign, one rounding each.
    allowed = 2**-23 * n**0.5 * float((weights.abs()[:, None] @ v[0].double().abs()).max()) / 10
    assert float((out[0, :, -1].double() - want).abs().max()) <= allowed
    shares = recur(q.abs(), k * 1000, v, normalise="softmax")
    assert torch.isfinite(shares).all()
    best = (k[0, 0] * 1000).double().softmax(0).T @ v[0, 0].double()
    assert error(shares[0, 0, -1], q[0, 0, -1].abs().double() @ best) < 1e-5


def test_running_softmax_with_large_keys_equals_softmax() -> None:
    source = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(1, 1, 200, D, generator=source) for _ in range(3))
    k = k * 1000
    got = recur(q, k, v, normalise="softmax")
    for t in (0, 1, 50, 199):
        want = q[0, 0, t].double() @ (k[0, 0, : t + 1].double().softmax(0).T @ v[0, 0, : t + 1].double())
        assert float((got[0, 0, t].double() - want).abs().max()) < 1e-5


def test_bfloat16_is_computed_in_float32() -> None:
    q, k, v = (x.bfloat16() for x in inputs())
    exact = recur(q.double(), k.double(), v.double(), decay=-0.01)
    got = recur(q, k, v, decay=-0.01)
    assert got.dtype == torch.bfloat16
    assert error(got, exact) <= 2**-8


def test_a_scan_of_single_numbers() -> None:
    source = torch.Generator().manual_seed(0)
    x, fade = torch.randn(3, 150, 5, generator=source).double(), -torch.rand(3, 150, 5, generator=source).double() * 4
    first = torch.randn(3, 5, generator=source).double()
    fade[0, 70] = -torch.inf
    h, want = first, []
    for t in range(150):
        h = fade[:, t].exp() * h + x[:, t]
        want.append(h)
    torch.testing.assert_close(scan(x, fade, first=first), torch.stack(want, 1), rtol=0, atol=1e-12)
    assert scan(x[:, :0], fade[:, :0]).shape == (3, 0, 5)
