"""Lightning Attention-2: causal linear attention that fades, one rate for each head."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.fading import rates, staying
from regard.mechanisms.mixer import Mixer
from regard.ops import Memory, recur


class LightningAttention2(Mixer):
    """Every query reads the sum of all values so far, weighted by its products with their keys, and less by exp(-slope)
    for each token between; nothing is normalised.

    `slopes` are rates of forgetting, for all heads or one for each, by default ALiBi's; 0 forgets nothing. With
    `layers`, the number of layers in the stack, later layers forget less and the last hardly at all. `block` tokens are
    computed at a time (None: chosen by size), which changes nothing but the time.

    Shapes: q [B, H, N, D]; k [B, G, N, D]; v [B, G, N, E]; result [B, H, N, E]; a state of H D E numbers.
    Raises: ValueError for slopes below 0 or not one for each head, layers below 1, a block that is no power of two, or
    a call from a layer beyond `layers`; ShapeError for another number of query heads.
    Source: "Lightning Attention-2", 2401.04658, section 3; slopes as in its code.
    Differs from the paper: gradients come from differentiating the blocks, not from a kernel of their own; forgetting
    is counted in tokens, whatever positions are given.
    """

    spec: ClassVar[Spec] = Spec(
        id="lightning_attention2",
        slot="mixer",
        source=Source(
            "Lightning Attention-2: A Free Lunch for Handling Unlimited Sequence Lengths in Large Language Models",
            "2401.04658",
            "section 3",
            authors="Qin, Zhen and Sun, Weigao and Li, Dong and Shen, Xuyang and Sun, Weixuan and Zhong, Yiran",
        ),
        what="Causal linear attention without a normaliser that fades at a fixed rate for each head.",
        formula="S_t = exp(-s) S_{t-1} + k_t v_t^T\nout_t = q_t S_t\n"
        "s = slope of the head * (1 - layer / (layers - 1) + 1e-5)",
        bidirectional=False,
        cost=Cost(time=1, state=0),
        limits=(
            Limit("fading_attention"),
            Limit("fading_attention", block=1),
            Limit("running_products", slopes=0.0),
            Limit("own_product", slopes=1e4),
        ),
        variants=({"slopes": 0.0}, {"layers": 3, "block": 4}),
    )

    def __init__(
        self,
        heads: int,
        *,
        slopes: float | tuple[float, ...] | None = None,
        layers: int | None = None,
        block: int | None = None,
    ) -> None:
        super().__init__()
        self.heads, self.slopes, self.layers, self.block = heads, slopes, layers, block
        if layers is not None:
            self.at_least(layers=1)
        if block is not None and (block < 1 or block & (block - 1)):
            raise ValueError(f"LightningAttention2.block must be a power of two such as 64; got {block}.")
        self.rates = rates("LightningAttention2", slopes, heads)

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        return self.step(None, q, k, v, call)[0]

    def init_state(self, batch: int, held: Held) -> Memory | None:
        return None

    def step(self, state: Memory | None, q: Tensor, k: Tensor, v: Tensor, call: Call) -> tuple[Tensor, Memory]:
        H, G = q.shape[1], k.shape[1]
        if self.heads != H:
            raise ShapeError(f"LightningAttention2 was made for {self.heads} query heads; got {H}. Type heads={H}.")
        if G != H:  # heads of one group forget at rates of their own
            k, v = (x.repeat_interleave(H // G, 1) for x in (k, v))
        return recur(
            q,
            k,
            v,
            decay=self.decay(call.layer, q),
            state=state,
            real=call.real,
            documents=call.documents,
            chunk=self.block,
            keep=True,
        )

    def decay(self, layer: int, like: Tensor) -> Tensor:
        """The logarithm of what stays from token to token, [H], in the layer of this number."""
        return staying(self.rates, layer, self.layers, like)
