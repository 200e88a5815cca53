"""A decoder that passes its hard tokens through all of its layers again: Think-at-Hard as a whole model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regard.backbones.block import SwiGLU
from regard.caches import Held
from regard.errors import ShapeError
from regard.mechanisms import Call
from regard.mechanisms.depth.think_at_hard import Decider, LowRank, ThinkAtHard

Slots = tuple[Held, ...]


@dataclass(frozen=True, eq=False)
class LoopState:
    """What decoding keeps: how many real tokens each row has seen [B], and the slots of each layer and iteration."""

    seen: Tensor
    slots: tuple[Slots, ...]


@dataclass(frozen=True, eq=False)
class Thought:
    """One pass: the logits after each token's last iteration and after its first, and what the decider said.

    Shapes: logits and first [B, N, vocabulary]; decisions, one [B, N] an iteration but the last, above 0 to go on;
    iterations [B, N], how many each token took, 0 for padding.
    """

    logits: Tensor
    first: Tensor
    decisions: tuple[Tensor, ...]
    iterations: Tensor

    @property
    def passes(self) -> int:
        """How many tokens went through the layers, again ones counted again."""
        return int(self.iterations.sum())


class ThinkingBlock(nn.Module):
    """Duo-causal attention and a gated map, each after a norm and beside a residual; deeper iterations adapt both.

    Shapes: tokens [B, n, dim] to [B, n, dim].
    """

    def __init__(self, layer: ThinkAtHard, hidden: int) -> None:
        super().__init__()
        dim, rank, alpha = layer.dim, layer.rank, layer.alpha
        self.before_attention, self.attention = nn.RMSNorm(dim), layer
        self.before_map, self.map = nn.RMSNorm(dim), SwiGLU(dim, hidden)
        if layer.iterations > 1:
            sizes = {"gate": (dim, hidden), "up": (dim, hidden), "down": (hidden, dim)}
            self.deeper = nn.ModuleDict(
                {name: LowRank(*size, rank, alpha, layer.dropout) for name, size in sizes.items()}
            )

    def forward(self, iteration: int, x: Tensor, at: Tensor, slots: Slots, call: Call) -> tuple[Tensor, Slots]:
        """One iteration, as `ThinkAtHard.iterate`."""
        read, slots = self.attention.iterate(iteration, self.before_attention(x), at, slots, call)
        x = x + read
        return x + self._mapped(self.before_map(x), iteration), slots

    def _mapped(self, x: Tensor, iteration: int) -> Tensor:
        if not iteration:
            return self.map(x)
        gate = self.map.gate(x) + self.deeper["gate"](x)
        inner = nn.functional.silu(gate) * (self.map.up(x) + self.deeper["up"](x))
        return self.map.down(inner) + self.deeper["down"](inner)


class LoopedLM(nn.Module):
    """A decoder in which a token is passed again while a decider finds its prediction likely wrong.

    The next iteration reads the mean embedding of the `best` likeliest next tokens, at the token's own position; its
    logits are added to those before. Only the tokens that go on are computed. The decider reads the states after
    the layers `reads` and the `best` highest logits.

    Shapes: ids [B, N] to logits [B, N, vocabulary].
    Raises: ValueError for counts below 1, a threshold outside 0..1 or layers to read that there are not.
    Source: "Think-at-Hard", 2511.08577.
    """

    def __init__(
        self,
        vocabulary: int,
        dim: int,
        heads: int,
        *,
        layers: int = 2,
        iterations: int = 2,
        threshold: float = 0.8,
        rank: int = 16,
        dropout: float = 0.1,
        hidden: int | None = None,
        best: int = 100,
        reads: Sequence[int] | None = None,
        width: int = 64,
        blocks: int = 2,
    ) -> None:
        super().__init__()
        if vocabulary < 1 or layers < 1 or best < 1:
            raise ValueError(f"LoopedLM needs vocabulary, layers, best >= 1; got {vocabulary}, {layers}, {best}.")
        if not 0 <= threshold <= 1:
            raise ValueError(f"LoopedLM.threshold must be in 0..1; got {threshold}.")
        self.reads = tuple(dict.fromkeys((0, (layers - 1) // 2, layers - 1))) if reads is None else tuple(reads)
        if not self.reads or not all(0 <= one < layers for one in self.reads):
            raise ValueError(f"LoopedLM.reads must name layers 0..{layers - 1}; got {self.reads}.")
        hidden = 8 * math.ceil(dim / 3) if hidden is None else hidden
        self.vocabulary, self.dim, self.iterations, self.threshold = vocabulary, dim, iterations, threshold
        self.best = min(best, vocabulary)
        self.embedding = nn.Embedding(vocabulary, dim)
        self.blocks = nn.ModuleList(
            ThinkingBlock(
                ThinkAtHard(dim, heads, iterations=iterations, threshold=None, rank=rank, dropout=dropout, rope=True),
                hidden,
            )
            for _ in range(layers)
        )
        self.norm = nn.RMSNorm(dim)
        nn.init.normal_(self.embedding.weight, std=dim**-0.5)
        if iterations > 1:
            self.top = nn.Linear(self.best, dim)
            self.decider = Decider((len(self.reads) + 1) * dim, width, blocks=blocks, dropout=dropout)

    def forward(self, ids: Tensor, padding: Tensor | None = None, *, labels: Tensor | None = None) -> Tensor:
        """Logits [B, N, vocabulary] after each token's last iteration; as `think`."""
        return self.think(ids, padding, labels=labels).logits

    def think(self, ids: Tensor, padding: Tensor | None = None, *, labels: Tensor | None = None) -> Thought:
        """One pass over sequences. `labels` [B, N], whole numbers, are how many iterations each token takes, in place
        of the decider's choice.

        Raises: ShapeError, ValueError where ids or labels do not fit.
        """
        return self.step(self.init_state(ids.shape[0]), ids, padding, labels=labels)[0]

    def init_state(self, batch: int) -> LoopState:
        """The state before the first token."""
        seen = torch.zeros(batch, dtype=torch.int64, device=self.embedding.weight.device)
        return LoopState(seen, tuple(tuple(Held() for _ in range(self.iterations)) for _ in self.blocks))

    def step(
        self, state: LoopState, ids: Tensor, padding: Tensor | None = None, *, labels: Tensor | None = None
    ) -> tuple[Thought, LoopState]:
        """What is thought of the next tokens [B, n], and the state after them; `state` is left as it was.

        Raises: ShapeError, ValueError where ids, labels or the state do not fit.
        """
        self._fit(state, ids, labels)
        real = torch.ones_like(ids, dtype=torch.bool) if padding is None else padding
        at = torch.where(real, state.seen[:, None] + real.cumsum(1) - 1, -1)
        logits, states, slots = self._iterate(0, self.embedding(ids) * math.sqrt(self.dim), at, state.slots)
        first, count, decisions = logits, real.long(), []
        for iteration in range(1, self.iterations):
            decision = self._decided(states, logits)
            decisions.append(decision)
            goes = torch.sigmoid(decision) > self.threshold if labels is None else labels > iteration
            goes = goes & (count == iteration)
            count = count + goes.long()
            logits, states, slots = self._again(iteration, logits, states, goes, at, slots)
        return Thought(logits, first, tuple(decisions), count), LoopState(state.seen + real.sum(1), slots)

    def decision_loss(self, thought: Thought, labels: Tensor, *, weight: float = 5.0) -> Tensor:
        """Binary cross-entropy of the decider against `labels` [B, N], over the tokens that could go on.

        `weight` is that of the tokens which should, since they are few.
        """
        losses = []
        for iteration, decision in enumerate(thought.decisions, 1):
            asked = (thought.iterations >= iteration) & (labels >= iteration)
            losses.append(
                nn.functional.binary_cross_entropy_with_logits(
                    decision[asked], (labels > iteration).to(decision.dtype)[asked],
                    pos_weight=decision.new_tensor(weight), reduction="sum",
                ) / asked.sum().clamp_min(1)
            )  # fmt: skip
        return torch.stack(losses).sum() if losses else thought.logits.new_zeros(())

    def _iterate(
        self, iteration: int, x: Tensor, at: Tensor, slots: tuple[Slots, ...]
    ) -> tuple[Tensor, Tensor, tuple[Slots, ...]]:
        """Logits, the states that the decider reads [B, n, reads * C], and each layer's slots, after one iteration."""
        call = Call(tokens=x, memory=x, causal=True, q_positions=at, k_positions=at)
        states, after = [], []
        for block, held in zip(self.blocks, slots, strict=True):
            x, held = block(iteration, x, at, held, call)
            states.append(x)
            after.append(held)
        logits = nn.functional.linear(self.norm(x), self.embedding.weight)
        return logits, torch.cat([states[one] for one in self.reads], -1), tuple(after)

    def _again(
        self, iteration: int, logits: Tensor, states: Tensor, goes: Tensor, at: Tensor, slots: tuple[Slots, ...]
    ) -> tuple[Tensor, Tensor, tuple[Slots, ...]]:
        """One more iteration of the tokens that go on, gathered from each row; the others keep what they have."""
        most = int(goes.sum(1).max()) if goes.numel() else 0
        if not most:
            return logits, states, slots
        index = goes.to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :most]
        places = torch.where(goes.gather(1, index), at.gather(1, index), -1)
        own = logits.gather(1, index[..., None].expand(-1, -1, logits.shape[-1]))
        added, new, slots = self._iterate(iteration, self.soft(own) * math.sqrt(self.dim), places, slots)
        there = (places >= 0)[..., None]
        logits = logits.scatter(1, index[..., None].expand_as(added), torch.where(there, own + added, own))
        old = states.gather(1, index[..., None].expand_as(new))
        return logits, states.scatter(1, index[..., None].expand_as(new), torch.where(there, new, old)), slots

    def soft(self, logits: Tensor) -> Tensor:
        """The mean embedding of the likeliest next tokens, weighted by their probabilities, [B, N, dim]."""
        top = logits.softmax(-1).topk(self.best, -1)
        return (top.values[..., None, :] @ self.embedding(top.indices))[..., 0, :]

    def _decided(self, states: Tensor, logits: Tensor) -> Tensor:
        return self.decider(torch.cat([states, self.top(logits.topk(self.best, -1).values)], -1))

    def _fit(self, state: LoopState, ids: Tensor, labels: Tensor | None) -> None:
        if ids.dim() != 2 or ids.is_floating_point() or ids.dtype == torch.bool:
            raise ShapeError(f"LoopedLM takes ids as whole numbers [B, N]; got {ids.dtype} {list(ids.shape)}.")
        if len(state.slots) != len(self.blocks):
            raise ValueError(
                f"LoopedLM has {len(self.blocks)} layers, and this state is of {len(state.slots)}. Start from its own "
                "init_state."
            )
        if labels is not None and labels.shape != ids.shape:
            raise ShapeError(f"labels must be {list(ids.shape)} as the ids; got {list(labels.shape)}.")
        if labels is not None and bool((labels > self.iterations).any()):
            raise ValueError(f"labels must be at most iterations={self.iterations}; got {int(labels.max())}.")


def hard(logits: Tensor, targets: Tensor) -> Tensor:
    """Two iterations for each token whose likeliest next token is not the target, else one: [B, N].

    Shapes: logits [B, N, vocabulary] of a reference model; targets [B, N].
    """
    return 1 + (logits.argmax(-1) != targets).long()
