"""The first slot: from tokens to queries, keys and values."""

from __future__ import annotations

from torch import Tensor, nn

from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.slot import Slot


class Projection(Slot):
    """Tokens to queries [B, heads, N, head_dim], keys [B, kv_heads, M, head_dim], values [B, kv_heads, M, value_dim].

    A subclass sets the four sizes and defines `queries` and `keep`; what `keep` returns is what decoding keeps of a
    token. Where that is not the keys and values themselves it sets `latent` and defines `expand`. `rotary` names the
    features that a rotary position turns, all of them by default. `history` is how many inputs before a step's tokens
    `queries` reads from `call.before`.
    """

    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    latent: bool = False
    rotary: slice = slice(None)
    history: int = 0

    def queries(self, tokens: Tensor, call: Call) -> Tensor:
        """Tokens [B, N, C] to queries [B, heads, N, head_dim]."""
        raise NotImplementedError

    def keep(self, memory: Tensor, call: Call) -> tuple[Tensor, ...]:
        """Tokens [B, M, C] to keys and values, or to what `expand` makes them from: tensors [B, any, M, any]."""
        raise NotImplementedError

    def expand(self, kept: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Keys [B, kv_heads, M, head_dim] and values [B, kv_heads, M, value_dim] from what was kept."""
        k, v = kept
        return k, v

    def forward(self, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of one call."""
        return self.queries(call.tokens, call), *self.expand(self.keep(call.memory, call))


class LinearProjection(Projection):
    """One linear map each for queries, keys and values; what MHA, GQA and their kin share."""

    def __init__(self, dim: int, heads: int, kv_heads: int, head_dim: int, *, bias: bool = False) -> None:
        super().__init__()
        for name, value in (("heads", heads), ("kv_heads", kv_heads)):
            if value < 1:
                raise ValueError(f"{type(self).__name__}.{name} must be at least 1; got {value}.")
        if heads % kv_heads:
            fits = next(g for g in range(kv_heads, 0, -1) if heads % g == 0)
            raise ValueError(
                f"{type(self).__name__}.kv_heads={kv_heads} must divide heads={heads}. Type kv_heads={fits}."
            )
        self.dim, self.heads, self.kv_heads, self.head_dim, self.value_dim = dim, heads, kv_heads, head_dim, head_dim
        self.q = nn.Linear(dim, heads * head_dim, bias=bias)
        self.k = nn.Linear(dim, kv_heads * head_dim, bias=bias)
        self.v = nn.Linear(dim, kv_heads * head_dim, bias=bias)
        start(self)

    def queries(self, tokens: Tensor, call: Call) -> Tensor:
        return split(self.q(tokens), self.heads)

    def keep(self, memory: Tensor, call: Call) -> tuple[Tensor, ...]:
        return split(self.k(memory), self.kv_heads), split(self.v(memory), self.kv_heads)


def split(x: Tensor, heads: int) -> Tensor:
    """[B, N, heads * D] to [B, heads, N, D]."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def join(x: Tensor) -> Tensor:
    """[B, H, N, D] to [B, N, H * D]."""
    return x.transpose(1, 2).flatten(2)


def start(module: nn.Module) -> None:
    """Give every linear map of a module Xavier weights and zero biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear):
            nn.init.xavier_uniform_(part.weight)
            if part.bias is not None:
                nn.init.zeros_(part.bias)


def width(name: str, tokens: Tensor, dim: int, what: str = "tokens") -> None:
    """Raise ShapeError unless tokens are [B, N, dim]."""
    if tokens.dim() != 3 or tokens.shape[-1] != dim:
        raise ShapeError(f"{name} takes {what} [B, N, {dim}]; got {list(tokens.shape)}.")
