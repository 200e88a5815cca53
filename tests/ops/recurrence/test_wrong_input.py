"""What does not go together, and what the error says to type."""

from __future__ import annotations

import pytest
import torch

from regard.errors import EngineRefused, ShapeError
from regard.ops import Memory, explain_recur, recur
from regard.ops.recurrence import Recurrence, Recurring

X = torch.zeros(2, 4, 5, 8)
KEPT = recur(X, X, X, keep=True)[1]
WRONG = [
    (lambda: recur(X[0], X, X), ShapeError, r"recur takes q \[B, H, N, D\]"),
    (lambda: recur(X, X[:, :3], X[:, :3]), ShapeError, "G must divide H"),
    (lambda: recur(X, X, X[:, :, :4]), ShapeError, "must agree in B, N and D"),
    (lambda: recur(X, X, X, decay=0.1), ValueError, "logarithm of what stays each step, at most 0; got 0.1"),
    (lambda: recur(X, X, X, decay=torch.zeros(3)), ShapeError, r"decay must be a number, \[G\], \[G, D\].*got \[3\]"),
    (lambda: recur(X, X, X, write="hebb"), ValueError, "write must be 'add' or 'delta'; got 'hebb'"),
    (lambda: recur(X, X, X, normalise="max"), ValueError, "normalise must be 'none', 'sum' or 'softmax'"),
    (lambda: recur(X, X, X, write="delta", normalise="sum"), ValueError, "Type normalise='none', not 'sum'"),
    (lambda: recur(X, X, X, write="delta", causal=False), ValueError, "Type causal=True, or write='add'"),
    (lambda: recur(X, X, X, normalise="softmax", causal=False, decay=-0.1), ValueError, "Type normalise='sum'"),
    (lambda: recur(X, X, X, normalise="softmax", beta=X[..., 0]), ValueError, "no meaning with amounts beta"),
    (lambda: recur(X, X, X, causal=False, state=KEPT), ValueError, "Type causal=True, or state=None"),
    (lambda: recur(X, X, X, state=KEPT, documents=torch.zeros(2, 5).long()), ValueError, "Give one of the two"),
    (lambda: recur(X, X, X, chunk=48), ValueError, "chunk must be a power of two such as 64; got 48"),
    (lambda: recur(X, X, X, beta=X), ShapeError, r"beta must be \[B, G, N\] = \[2, 4, 5\]"),
    (lambda: recur(X, X, X, real=torch.ones(2, 4).bool()), ShapeError, r"real must be \[2, 5\] or \[1, 5\]"),
    (lambda: recur(X, X, X, real=torch.ones(2, 5)), ShapeError, r"real must be booleans.*Use .bool\(\)"),
    (lambda: recur(X, X, X, state=Memory(X)), ShapeError, r"go on from \[2, 4, 8, 8\]"),
    (lambda: recur(X, X, X, state=KEPT, normalise="sum"), ValueError, "made with normalise=none, and normalise='sum'"),
    (lambda: recur(X, X, X, engine="fast"), ValueError, "There is no engine 'fast' for recur; engines are auto"),
    (lambda: recur(X, X, X, engine=Never()), EngineRefused, "Engine 'never' can't run this: it is Tuesday"),
]


class Never(Recurring):
    name = "never"

    def unsupported(self, p: Recurrence) -> list[str]:
        return ["it is Tuesday"]


@pytest.mark.parametrize(("call", "kind", "text"), WRONG, ids=[text for _, _, text in WRONG])
def test_wrong_input_says_what_to_type(call, kind: type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text):
        call()


def test_explaining() -> None:
    assert explain_recur(X, X, X).startswith("chunked: matrix products over chunks of tokens\nnot ")
    assert explain_recur(X[:, :, :1], X[:, :, :1], X[:, :, :1], decay=-1.0).startswith("reference: single steps")
