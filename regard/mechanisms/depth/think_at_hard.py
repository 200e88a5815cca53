"""Think at hard: tokens that a small decider finds hard pass the layer again, and see what such passes left behind."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.mechanisms.call import Call
from regard.mechanisms.layer import Layer
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.rotary import even, frequencies, turned
from regard.mechanisms.slot import divide

Slots = tuple[Held, ...]  # keys and values of each iteration, with positions -1 where a token did not take part


class LowRank(nn.Module):
    """What a low-rank adapter adds to a linear map: alpha / rank x A B, nothing at the start.

    Shapes: [..., width] to [..., out].
    """

    def __init__(self, width: int, out: int, rank: int, alpha: float, dropout: float = 0.0) -> None:
        super().__init__()
        self.down = nn.Linear(width, rank, bias=False)
        self.up = nn.Linear(rank, out, bias=False)
        self.scale, self.dropout = alpha / rank, nn.Dropout(dropout)
        start(self)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(self.dropout(x))) * self.scale


class Decider(nn.Module):
    """A small residual network to one number per token: above 0 the token is likely wrong still.

    Shapes: features [B, N, features] to [B, N].
    """

    def __init__(self, features: int, width: int, *, blocks: int = 1, dropout: float = 0.0) -> None:
        super().__init__()
        self.into = nn.Linear(features, width)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Dropout(dropout),
                nn.Linear(4 * width, width),
            )
            for _ in range(blocks)
        )  # fmt: skip
        self.norm, self.last = nn.LayerNorm(width), nn.Linear(width, 1)
        for part in self.modules():
            if isinstance(part, nn.Linear):
                nn.init.kaiming_normal_(part.weight)
                nn.init.zeros_(part.bias)

    def forward(self, features: Tensor) -> Tensor:
        x = self.into(features)
        for block in self.blocks:
            x = x + block(x)
        return self.last(self.norm(x))[..., 0]


class ThinkAtHard(Layer):
    """Causal attention that hard tokens pass more than once, over all keys of earlier tokens' iterations up to theirs.

    A query at position p and iteration i sees the keys at positions <= p and iterations <= i (duo-causal attention), so
    that each iteration runs for all its tokens at once. Deeper iterations add low-rank maps of `rank` to the four
    linear ones, read the token and what was given for it so far, at the token's own size, and add to that. A token goes
    on while the decider's probability is above `threshold`; in training the gradient passes straight through the
    choice. With `threshold=None` there is no decider: the layer makes the first iteration, and a model asks for others
    by `iterate`.

    Shapes: tokens [B, N, dim] to [B, N, dim].
    Raises: ValueError where iterations, rank or width is below 1 or the threshold is outside 0..1; ShapeError where
    sizes do not fit.
    Source: "Think-at-Hard", 2511.08577.
    Differs from the paper: there the whole model is passed again, as `regard.backbones.looped` does; here one layer is
    made to do the same by itself, so that it decides from its own input and output, at 0.5 and not 0.8.
    """

    spec: ClassVar[Spec] = Spec(
        id="think_at_hard",
        slot="layer",
        source=Source(
            "Think-at-Hard: Selective Latent Iterations to Improve Reasoning Language Models",
            "2511.08577",
            authors="Fu, Tianyu and You, Yichen and Chen, Zekai and Dai, Guohao and Yang, Huazhong and Wang, Yu",
        ),
        what="Tokens that a decider finds hard pass again, and see the keys of all iterations up to their own.",
        formula="y_p = sum_i y_p^i,  y_p^i = W_o softmax(q_p^i k_p'^i' / sqrt(D)) v_p'^i'  over  p' <= p, i' <= i\n"
        "x^0 = x,  x^(i+1) = (x + y) |x| / |x + y|,  y = sum_(j <= i) y^j\n"
        "a token goes on while sigmoid(decider([x, y])) > threshold\n"
        "i > 0: W + alpha / rank B A in place of each W",
        bidirectional=False,
        gqa=False,
        cost=Cost(time=2, state=1),
        limits=(
            Limit("softmax", iterations=1),
            Limit("softmax", threshold=1.0),
            Limit("think_at_hard"),
            Limit("think_at_hard", threshold=0.0, iterations=3),
        ),
        variants=({"iterations": 3, "threshold": 0.0, "rope": True},),
        # Tokens rounded to bfloat16 turn some undecided ones the other way, which moves their outputs by a whole pass.
        bfloat16=10.0,
    )

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        iterations: int = 2,
        threshold: float | None = 0.5,
        rank: int = 8,
        alpha: float | None = None,
        dropout: float = 0.0,
        width: int = 64,
        rope: bool = False,
        base: float = 10000.0,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        self.dim, self.heads, self.head_dim = dim, heads, divide(name, dim, heads)
        self.iterations, self.threshold, self.rank, self.width = iterations, threshold, rank, width
        self.alpha, self.dropout, self.rope, self.base = 2.0 * rank if alpha is None else alpha, dropout, rope, base
        self.at_least(iterations=1, rank=1, width=1)
        if threshold is not None and not 0 <= threshold <= 1:
            raise ValueError(f"{name}.threshold must be in 0..1, or None for no decider; got {threshold}.")
        if rope:
            even(name, self.head_dim)
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=False) for _ in range(4))
        start(self)
        if iterations > 1:
            self.deeper = nn.ModuleDict({one: LowRank(dim, dim, rank, self.alpha, dropout) for one in "qkvo"})
            if threshold is not None:
                self.decider = Decider(2 * dim, width)

    def attend(self, call: Call) -> Tensor:
        return self.advance(self.begin(call.tokens.shape[0]), call)[0]

    def begin(self, batch: int) -> Slots:
        return tuple(Held() for _ in range(self.iterations if self.threshold is not None else 1))

    def advance(self, inner: Slots, call: Call) -> tuple[Tensor, Slots]:
        N = call.tokens.shape[1]
        at = call.q_at(N, N)
        out, slots = self.iterate(0, call.tokens, at, inner, call)
        for iteration in range(1, len(inner)):
            gate, goes = self._decide(call.tokens, out)
            at = torch.where(goes, at, -1)
            more, slots = self.iterate(iteration, _sized(call.tokens + out, call.tokens), at, slots, call)
            out = out + gate[..., None].to(more.dtype) * more
        return out, slots

    def iterate(self, iteration: int, tokens: Tensor, at: Tensor, slots: Slots, call: Call) -> tuple[Tensor, Slots]:
        """One iteration of the tokens that take part, over all keys so far, and the slots with their own.

        Shapes: tokens [B, n, C]; at [B|1, n], positions, -1 for what does not take part and comes out as zero; slots
        one for each iteration; result [B, n, C].
        """
        q, k, v = (split(self._map(one, tokens, iteration), self.heads) for one in "qkv")
        if self.rope:
            steps = frequencies(self.head_dim, self.base, q)
            q, k = turned(q, at, steps), turned(k, at, steps)
        slots = (*slots[:iteration], slots[iteration].append((k, v), at), *slots[iteration + 1 :])
        held = [slot for slot in slots[: iteration + 1] if slot.positions is not None]
        keys, values = (torch.cat([slot.parts[part] for slot in held], 2) for part in (0, 1))
        places = torch.cat([slot.positions.expand(len(tokens), -1) for slot in held if slot.positions is not None], 1)
        out = join(call.with_(q_positions=at, k_positions=places).attend(q, keys, values))
        return self._map("o", out, iteration), slots

    def _map(self, name: str, x: Tensor, iteration: int) -> Tensor:
        linear = {"q": self.q, "k": self.k, "v": self.v, "o": self.out}[name]
        return linear(x) + self.deeper[name](x) if iteration else linear(x)

    def _decide(self, tokens: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        """How much of the next iteration is added, and whether there is one, [B, N]."""
        assert self.threshold is not None
        p = torch.sigmoid(self.decider(torch.cat([tokens, out], -1)))
        goes = p > self.threshold
        hard = goes.to(p.dtype)
        return (hard + p - p.detach() if self.training else hard), goes


def _sized(x: Tensor, like: Tensor) -> Tensor:
    """Tokens at the size of others, so that a deeper iteration reads what the first one does."""
    wide = torch.promote_types(x.dtype, torch.float32)
    size = (like.to(wide).square().mean(-1, keepdim=True) + 1e-6) / (x.to(wide).square().mean(-1, keepdim=True) + 1e-6)
    return (x * size.sqrt()).to(x.dtype)
