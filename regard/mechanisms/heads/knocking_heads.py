"""Heads that share a transform of their features before they attend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.core import Cost, Limit, Source, Spec
from regard.errors import Unsupported
from regard.mechanisms.call import Call
from regard.mechanisms.projection import LinearProjection
from regard.mechanisms.slot import divide


class KnockingHeads(LinearProjection):
    """One transform, shared by all heads, of each head's values, and of its queries and keys if asked for.

    `on` names what is transformed, as `"v"` or `"qkv"`. Queries and keys pass one linear map; values do too with
    `variant="linear"`, and a gated one with `"mlp"`. With `init="identity"` the layer starts as its host exactly;
    `"random"` is there to compare with. Positions turn what has been transformed, and decoding keeps it.

    Shapes: tokens [B, N, dim] to q [B, heads, N, dim / heads], k and v [B, kv_heads, N, dim / heads]. `kv_heads`
    defaults to `heads`.
    Raises: ShapeError where `dim` is not a multiple of `heads`; ValueError for a setting out of range.
    Source: "Knocking-Heads Attention", 2510.23052, section 3.
    """

    spec: ClassVar[Spec] = Spec(
        id="knocking_heads",
        slot="projection",
        source=Source(
            "Knocking-Heads Attention",
            "2510.23052",
            "section 3",
            authors="Zhou, Zhanchao and Chen, Xiaodong and Chen, Haoxing and Lan, Zhenzhong and Li, Jianguo",
        ),
        what="All heads pass their features through one shared transform, which starts as the identity.",
        formula="linear: q~_h = q_h T_Q,  k~_g = k_g T_K,  v~_g = v_g T_V\n"
        "mlp: v~_g = 2 ((v_g W_up) * sigmoid(v_g W_gate)) W_down",
        cross=True,
        cost=Cost(time=1, state=1),
        limits=(
            Limit("softmax"),
            Limit("softmax", kv_heads=2),
            Limit("softmax", variant="linear", on="qkv"),
            Limit("knocking_heads", init="random"),
            Limit("knocking_heads", init="random", variant="linear", on="qkv", kv_heads=2),
        ),
        inert=("k.bias",),  # it adds the same to all of a query's scores, unless a position turns it
        variants=({"variant": "linear", "on": "qkv", "kv_heads": 2}, {"on": "kv", "bias": True}),
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        kv_heads: int | None = None,
        variant: str = "mlp",
        on: str | Sequence[str] = ("v",),
        init: str = "identity",
        bias: bool = False,
    ) -> None:
        width = divide("KnockingHeads", dim, heads)
        super().__init__(dim, heads, heads if kv_heads is None else kv_heads, width, bias=bias)
        self.variant, self.on, self.init = variant, tuple(on), init
        self.one_of("variant", ("mlp", "linear"))
        self.one_of("init", ("identity", "random"))
        if not self.on or not set(self.on) <= set("qkv"):
            raise ValueError(f"KnockingHeads.on must name one or more of 'q', 'k' and 'v'; got {on!r}. Type on='v'.")
        self.shared = nn.ModuleDict()
        for which in "qkv":
            if which in self.on:
                gated = which == "v" and variant == "mlp"
                self.shared[which] = _Gated(width) if gated else nn.Linear(width, width, bias=False)
        if init == "identity":
            for name, parameter in self.shared.named_parameters():
                (nn.init.zeros_ if name.endswith("gate.weight") else nn.init.eye_)(parameter)

    def queries(self, tokens: Tensor, call: Call) -> Tensor:
        return self._knocked(super().queries(tokens, call), "q")

    def keep(self, memory: Tensor, call: Call) -> tuple[Tensor, ...]:
        k, v = super().keep(memory, call)
        return self._knocked(k, "k"), self._knocked(v, "v")

    def absorbed(self) -> dict[str, Tensor]:
        """The state dict of a plain projection, such as `GQA`, that does the same: the transforms are multiplied in.

        Raises: Unsupported where a transform is not linear.
        """
        state = {}
        for which in "qkv":
            plain: nn.Linear = getattr(self, which)
            shared = self.shared[which] if which in self.on else None
            if isinstance(shared, _Gated):
                raise Unsupported(
                    "KnockingHeads can't absorb the gated transform of variant='mlp'. Type variant='linear'."
                )
            for name, tensor in plain.state_dict().items():
                if isinstance(shared, nn.Linear):
                    # [heads * D, ...]: the output features of every head pass the shared map.
                    own = tensor.unflatten(0, (-1, self.head_dim))
                    tensor = torch.einsum("ed,hd...->he...", shared.weight.detach(), own).flatten(0, 1)
                state[f"{which}.{name}"] = tensor.clone()
        return state

    def _knocked(self, x: Tensor, which: str) -> Tensor:
        return self.shared[which](x) if which in self.on else x


class _Gated(nn.Module):
    """Features through a gated linear map; the gate is twice a sigmoid, so that it is one at zero weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.up = nn.Linear(width, width, bias=False)
        self.gate = nn.Linear(width, width, bias=False)
        self.down = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(2 * self.up(x) * self.gate(x).sigmoid())
