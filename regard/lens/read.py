"""The weights of a layer of this library, read off what it makes of values that are one for a single token."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import Unsupported
from regard.layers import Attention
from regard.mechanisms import Layer

Read = Callable[[Tensor], Tensor]  # values [B, G, M, E] to heads' outputs [B, H, N, E]


@dataclass(frozen=True, eq=False)
class Seen:
    """One call of a layer: what it makes of any values, and the values that it had.

    Shapes: values [B, G, M, E].
    """

    read: Read
    values: Tensor

    def columns(self) -> Iterator[tuple[Tensor, int]]:
        """Blocks [B, H, N, E] of columns of the weights, and each one's first key.

        Raises: Unsupported where the layer's outputs are no weighted sums of its values.
        """
        v = self.values
        whole = self.read(v)
        H, E, M = whole.shape[1], v.shape[-1], v.shape[2]
        rest = whole.clone()
        for first in range(0, M, E):
            width = min(E, M - first)
            own = nn.functional.pad(
                torch.eye(width, E, device=v.device, dtype=v.dtype), (0, 0, first, M - first - width)
            )
            columns = self.read(own.expand(*v.shape[:2], -1, -1))[..., :width]
            rest -= columns @ v.repeat_interleave(H // v.shape[1], 1)[:, :, first : first + width]
            yield columns, first
        if not torch.allclose(rest, torch.zeros_like(rest), atol=1e-3 * float(whole.abs().max())):
            raise Unsupported("What this layer reads is no weighted sum of values, so it has no map of weights.")


class Watch:
    """The last call of a layer while it is watched; `seen` is None for one that has no values or heads."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self.seen: Seen | None = None
        part = layer.mixer if isinstance(layer, Attention) else layer
        self._hook = part.register_forward_hook(self._keep, with_kwargs=True)

    def stop(self) -> None:
        """Watch no longer."""
        self._hook.remove()

    def _keep(self, part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: Tensor) -> None:
        if isinstance(self.layer, Attention):
            q, k, v, call = args
            self.seen = Seen(lambda values: part.forward(q, k, values, call), v)
            return
        v, merge, heads = (getattr(part, name, None) for name in ("v", "out", "heads"))
        if not (isinstance(v, nn.Linear) and isinstance(merge, nn.Linear) and isinstance(heads, int)):
            return

        def read(values: Tensor) -> Tensor:
            flat = values.transpose(1, 2).flatten(2)
            with ExitStack() as stack:
                stack.callback(v.register_forward_hook(lambda *_: flat).remove)
                stack.callback(merge.register_forward_hook(lambda part, given, out: given[0]).remove)
                return part.forward(*args, **kwargs).unflatten(-1, (heads, -1)).transpose(1, 2)

        self.seen = Seen(read, v(args[0]).unflatten(-1, (heads, -1)).transpose(1, 2))
