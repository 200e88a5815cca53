"""What a call allocates and multiplies, counted operation by operation rather than by the clock or the system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Ledger(TorchDispatchMode):
    """The most bytes, at any time, of tensors that operations made and that are still alive: `peak`."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[int, tuple[StorageWeakRef, int]] = {}
        self.total = 0  # of all that is held, and of what was freed since the last look
        self.peak = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in given:
                storage = tensor.untyped_storage()
                self.total += storage.nbytes() - self.held.get(storage._cdata, (None, 0))[1]
                self.held[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        if self.total > self.peak:
            self.held = {key: (ref, size) for key, (ref, size) in self.held.items() if not ref.expired()}
            self.total = sum(size for _, size in self.held.values())
            self.peak = max(self.peak, self.total)
        return result


def peak_bytes(run: Callable[[], object]) -> int:
    """The most bytes held at once while `run` runs."""
    with Ledger() as ledger:
        run()
    return ledger.peak


class Products(TorchDispatchMode):
    """Multiplications in matrix products."""

    kinds = ("mm", "bmm", "addmm", "baddbmm", "addmm_", "baddbmm_")

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in self.kinds:
            left, right = args[-2:]
            self.count += left.numel() * right.shape[-1]
        return func(*args, **(kwargs or {}))


def products(run: Callable[[], object]) -> int:
    """Multiplications in the matrix products of `run`."""
    with Products() as counter:
        run()
    return counter.count


def saved_bytes(run: Callable[[], Tensor]) -> int:
    """Bytes that the graph keeps for the backward pass, each storage once."""
    kept: dict[int, int] = {}

    def pack(t: Tensor) -> Tensor:
        kept[t.untyped_storage()._cdata] = t.untyped_storage().nbytes()
        return t

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        result = run()
    del result
    return sum(kept.values())
