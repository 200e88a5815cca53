"""The recurrence beside flash-linear-attention's definitions in plain torch, on the same inputs."""

from __future__ import annotations

import importlib.util
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.ops import recur

pytestmark = pytest.mark.slow

N, D = 128, 16


def naive(name: str) -> ModuleType:
    """One module of definitions, read as a file: its package asks for a compiler of GPU kernels."""
    home = importlib.util.find_spec("fla")
    assert home is not None
    assert home.submodule_search_locations
    path = f"{home.submodule_search_locations[0]}/ops/{name}/naive.py"
    spec = importlib.util.spec_from_file_location(f"naive_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOURCE = torch.Generator().manual_seed(0)
Q, K, V = (torch.randn(1, 2, N, D, generator=SOURCE) for _ in range(3))
K = F.normalize(K, dim=-1)
BETA, FADE = torch.rand(1, 2, N, generator=SOURCE), -0.3 * torch.rand(1, 2, N, generator=SOURCE)
EACH = -torch.rand(1, 2, N, D, generator=SOURCE)

CASES = {
    "linear_attn": ("naive_chunk_linear_attn", (Q, K, V), {"scale": 1.0}, {}),
    "linear_attn, normalised": (
        "naive_chunk_linear_attn", (Q.abs(), K.abs(), V), {"scale": 1.0, "normalize": True}, {"normalise": "sum"},
    ),
    "simple_gla": ("naive_chunk_simple_gla", (Q, K, V, FADE), {"scale": 1.0}, {"decay": FADE}),
    "gla": ("naive_recurrent_gla", (Q, K, V, EACH), {}, {"decay": EACH, "scale": D**-0.5}),
    "gated_delta_rule": (
        "naive_recurrent_gated_delta_rule", (Q, K, V, BETA, FADE), {"scale": 1.0},
        {"decay": FADE, "beta": BETA, "write": "delta"},
    ),
    "kda": (
        "naive_recurrent_kda", (Q, K, V, EACH, BETA), {"scale": 1.0}, {"decay": EACH, "beta": BETA, "write": "delta"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_same_recurrence_in_another_s_words(case: str) -> None:
    name, inputs, theirs, settings = CASES[case]
    call: Any = getattr(naive(case.partition(",")[0]), name)
    out = call(*(x.transpose(1, 2) for x in inputs), **theirs)
    want: Tensor = (out[0] if isinstance(out, tuple) else out).transpose(1, 2)
    got = recur(*inputs[:3], **settings)
    # Both are in float32, summed in other orders: some units in the last place of the largest sum.
    torch.testing.assert_close(got, want, rtol=0, atol=32 * 2**-23 * float(want.abs().max()))
