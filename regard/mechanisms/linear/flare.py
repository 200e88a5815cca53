"""FLARE: all tokens are read by a few learned latents per head, and read these with the same scores."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split
from regard.mechanisms.slot import divide
from regard.ops import Memory, attend, recur


class Deep(nn.Module):
    """A residual map of `depth` layers besides the first and the last, each added to what came into it.

    Shapes: [..., dim] to the same.
    """

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(dim, dim) for _ in range(depth + 1))
        self.last = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + F.gelu(layer(x), approximate="tanh")
        return x + self.last(x)


class FastLowRankAttentionRoutingEngine(Layer):
    """Learned latents of each head gather the tokens by softmax, and tokens take from the latents with the same scores.

    Keys and values are deep maps of the tokens: `depth` residual layers besides the first and the last, or one linear
    map at None. `latents` bounds the rank of the weights; `qk_norm` normalises latents and keys of each head, "none",
    "layer" or "rms".

    Shapes: tokens [B, N, dim] to [B, N, dim]; latents [heads, latents, dim / heads]. Kept in decoding per head:
    latents x (dim / heads + 1).
    Raises: ShapeError where `dim` is not a multiple of `heads`; ValueError for a setting out of range.
    Source: "FLARE: Fast Low-rank Attention Routing Engine", 2508.12594, section 3; its released code.
    Differs from the paper: the causal form, in which latents gather the tokens so far, and that across two sequences,
    in which they gather the other one, are not in it.
    """

    spec: ClassVar[Spec] = Spec(
        id="flare",
        slot="layer",
        source=Source(
            "FLARE: Fast Low-rank Attention Routing Engine",
            "2508.12594",
            "section 3",
            authors="Puri, Vedant and Joglekar, Aditya and Ferguson, Kevin and Chen, Yu-hsuan and "
            "Zhang, Yongjie Jessica and Kara, Levent Burak",
        ),
        what="A few learned latents per head gather all tokens, and each token reads the latents.",
        formula="z = softmax over tokens(s Q k^T) v,  y = softmax over latents(s k Q^T) z\n"
        "k, v: residual feed-forward maps of x;  Q: learned latents",
        cross=True,
        gqa=False,
        cost=Cost(time=1, state=0),
        limits=(
            Limit("latent_routing"),
            Limit("latent_routing", latents=3, depth=None, scale=0.5),
            Limit("latent_routing", qk_norm="layer"),
        ),
        variants=({"depth": None, "latents": 4, "qk_norm": "rms"},),
    )

    def __init__(
        self, dim: int, heads: int, *, latents: int = 32, depth: int | None = 3, scale: float = 1.0,
        qk_norm: str = "none",
    ) -> None:  # fmt: skip
        super().__init__()
        self.dim, self.heads, self.depth, self.scale, self.qk_norm = dim, heads, depth, scale, qk_norm
        self.head_dim = divide("FastLowRankAttentionRoutingEngine", dim, heads)
        if latents < 1:
            raise ValueError(f"FastLowRankAttentionRoutingEngine.latents must be at least 1; got {latents}.")
        if depth is not None:
            self.at_least(depth=0)
        if not scale > 0:
            raise ValueError(f"FastLowRankAttentionRoutingEngine.scale must be above 0; got {scale}.")
        self.one_of("qk_norm", ("none", "layer", "rms"))
        self.latents = nn.Parameter(torch.randn(heads, latents, self.head_dim) * 0.1)
        self.k, self.v = (nn.Linear(dim, dim) if depth is None else Deep(dim, depth) for _ in range(2))
        self.out = nn.Linear(dim, dim)
        kinds: dict[str, type[nn.Module]] = {"none": nn.Identity, "layer": nn.LayerNorm, "rms": nn.RMSNorm}
        self.latent_norm, self.key_norm = (kinds[qk_norm](self.head_dim) for _ in range(2))
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.normal_(part.weight, std=0.02)
                nn.init.zeros_(part.bias)

    def attend(self, call: Call) -> Tensor:
        if call.causal or call.documents is not None:
            k, v = self._keys(call.tokens), split(self.v(call.tokens), self.heads)
            scores = self._scores(k)
            out = recur(
                scores.softmax(-1),
                scores,
                v,
                normalise="softmax",
                causal=call.causal,
                real=call.real,
                documents=call.documents,
            )
            return self.out(join(out))
        k, v = self._keys(call.memory), split(self.v(call.memory), self.heads)
        Q = self._queries().expand(k.shape[0], -1, -1, -1).to(k.dtype)
        own = self._keys(call.tokens) if call.cross else k
        # Latents have no place among the tokens; all are given one, so that none counts as padding.
        mine, theirs = (torch.zeros(1, x.shape[2], dtype=torch.int64, device=k.device) for x in (Q, own))
        at = call.k_at(k.shape[2])
        z = attend(Q, k, v, scale=self.scale, q_positions=mine, k_positions=at)
        return self.out(join(attend(own, Q, z, scale=self.scale, q_positions=theirs, k_positions=mine)))

    def begin(self, batch: int) -> Memory | None:
        return None

    def advance(self, inner: Memory | None, call: Call) -> tuple[Tensor, Memory]:
        scores, v = self._scores(self._keys(call.tokens)), split(self.v(call.tokens), self.heads)
        out, after = recur(scores.softmax(-1), scores, v, normalise="softmax", real=call.real, state=inner, keep=True)
        return self.out(join(out)), after

    def weights(self, tokens: Tensor) -> Tensor:
        """The weights [B, heads, N, N] of tokens [B, N, dim] without an order, which the layer never makes."""
        scores = self._scores(self._keys(tokens))
        return scores.softmax(-1) @ scores.softmax(2).transpose(-1, -2)

    def spectrum(self, tokens: Tensor) -> Tensor:
        """The eigenvalues of those weights that may not be 0, largest first, without making them.

        Shapes: tokens [B, N, dim]; complex [B, heads, latents].
        """
        scores = self._scores(self._keys(tokens))
        found = torch.linalg.eigvals(scores.softmax(2).transpose(-1, -2) @ scores.softmax(-1))
        return found.take_along_dim(found.abs().argsort(-1, descending=True), -1)

    def _queries(self) -> Tensor:
        return self.latent_norm(self.latents)

    def _keys(self, x: Tensor) -> Tensor:
        return self.key_norm(split(self.k(x), self.heads))

    def _scores(self, k: Tensor) -> Tensor:
        """Scores [B, H, N, latents] of keys [B, H, N, D], in at least float32."""
        wide = torch.promote_types(k.dtype, torch.float32)
        return k.to(wide) @ self._queries().to(wide).transpose(-1, -2) * self.scale
