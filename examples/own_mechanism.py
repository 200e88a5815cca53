"""A mechanism outside of the package, in a layer, and held to what it claims."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

import regard.testing
from regard.core import Cost, Limit, Source, Spec
from regard.layers import Attention
from regard.masks import sinks, window
from regard.mechanisms import Call, Mixer


class FirstAndNearest(Mixer):
    """Every query reads the first `first` tokens and the `near` up to its own.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E].
    Raises: ValueError where `first` or `near` is below 1.
    """

    spec: ClassVar[Spec] = Spec(
        id="first_and_nearest",
        slot="mixer",
        source=Source("Efficient Streaming Language Models with Attention Sinks", "2309.17453", "section 3"),
        what="Every query reads the first tokens and the nearest.",
        formula="out_i = sum_j softmax_j(q_i k_j / sqrt(D)) v_j  over  j < first  or  i - near < j <= i",
        bidirectional=False,  # "before" has no meaning without an order: refused, and the refusal is checked
        packing=False,  # `sinks` are the first tokens of a sequence, not of each document in it
        scores=True,
        cost=Cost(time=1, state=1),
        limits=(Limit("softmax", near=10**6),),
        variants=({"first": 2, "near": 3},),
    )

    def __init__(self, *, first: int = 4, near: int = 128) -> None:
        super().__init__()
        self.first, self.near = first, near
        self.at_least(first=1, near=1)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return call.attend(q, k, v, where=window(self.near) | sinks(self.first))


if __name__ == "__main__":
    layer = Attention(64, 4, projection="gqa:kv_heads=2", mixer=FirstAndNearest(near=16))
    tokens = torch.randn(2, 50, 64)
    print("tokens", list(layer(tokens, causal=True).shape))

    outcomes = regard.testing.check(FirstAndNearest)
    print(f"{len(outcomes)} checks held")

    regard.testing.check(layer)  # a layer made of your own parts is held to what all of them claim
    print("and in that layer too")
