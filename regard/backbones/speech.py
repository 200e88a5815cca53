"""Efficient Conformer: attention that takes fewer tokens with depth, for long sequences such as sound."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.edits import Bias
from regard.errors import ShapeError
from regard.masks import causal as ordered
from regard.masks import chunks, everything
from regard.mechanisms.heads.grouped_time_attention import GroupedAttention, distances
from regard.mechanisms.projection import join, split, start
from regard.mechanisms.slot import divide
from regard.ops import attend


class StridedAttention(nn.Module):
    """Attention from every `stride`-th token to all, so that it gives fewer tokens than it takes.

    With `window` a token reads its own block of that many tokens alone; `relative` adds Transformer-XL's scores of the
    distance between a query's token and a key's. Strides and blocks are counted from a row's first slot.

    Shapes: tokens [B, N, dim] to [B, ceil(N / stride), dim]; padding boolean [B, N], True = real.
    Raises: ShapeError where `dim` is not a multiple of `heads`; ValueError where stride < 1 or does not divide
    `window`, or `dim` is odd and positions are `relative`.
    Source: "Efficient conformer", 2109.01163, section 3.1; its released code.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        *,
        stride: int = 2,
        window: int | None = None,
        relative: bool = False,
        causal: bool = False,
        bias: bool = True,
    ) -> None:
        super().__init__()
        divide("StridedAttention", dim, heads)
        if stride < 1:
            raise ValueError(f"StridedAttention.stride must be at least 1; got {stride}.")
        if window is not None and (window < 1 or window % stride):
            raise ValueError(
                f"StridedAttention.window must be a multiple of stride={stride}; got {window}. Type window="
                f"{max(1, window // stride) * stride}."
            )
        if relative and dim % 2:
            raise ValueError(f"StridedAttention.relative needs an even dim; got {dim}. Type relative=False.")
        self.dim, self.heads, self.stride, self.window = dim, heads, stride, window
        self.relative, self.causal = relative, causal
        self.q, self.k, self.v, self.out = (nn.Linear(dim, dim, bias=bias) for _ in range(4))
        if relative:
            self.position = nn.Linear(dim, dim, bias=bias)
            self.of_content, self.of_position = (nn.Parameter(torch.zeros(dim)) for _ in range(2))
        start(self)
        if relative:
            for parameter in (self.of_content, self.of_position):
                nn.init.xavier_uniform_(parameter.view(heads, -1))

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        _fits(self, tokens, self.dim, padding)
        N = tokens.shape[1]
        at = torch.arange(N, device=tokens.device)[None]
        at = at if padding is None else torch.where(padding, at, -1)
        q, k, v = (
            self.q(tokens[:, :: self.stride]),
            split(self.k(tokens), self.heads),
            split(self.v(tokens), self.heads),
        )
        edits = ()
        if self.relative:
            edits = (Bias(self._by_distance(split(q + self.of_position, self.heads), N)),)
            q = q + self.of_content
        where = ordered() if self.causal else everything
        if self.window is not None:
            where = where & chunks(self.window)
        out = attend(
            split(q, self.heads), k, v, where=where, edits=edits, q_positions=at[:, :: self.stride], k_positions=at
        )
        return self.out(join(out))

    def _by_distance(self, q: Tensor, N: int) -> Tensor:
        """Scaled scores [B, H, n, N] of queries [B, H, n, D] and distances."""
        table = split(self.position(distances(N, 1, self.dim).to(q))[None], self.heads)
        at = torch.arange(N, device=q.device)
        apart = at - at[:: self.stride, None] + N - 1
        scores = q @ table.transpose(2, 3) * q.shape[-1] ** -0.5
        return scores.gather(3, apart.expand(*scores.shape[:2], -1, -1))


class Convolution(nn.Module):
    """Conformer's convolution: a gate, a depthwise convolution of `kernel` tokens by `stride`, and a map to `width`.

    Padding reads as zeros, and the batch's mean and variance are of real tokens.

    Shapes: tokens [B, N, dim] to [B, ceil(N / stride), width].
    """

    def __init__(self, dim: int, width: int, *, kernel: int = 15, stride: int = 1, causal: bool = False) -> None:
        super().__init__()
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"Convolution.kernel must be odd; got {kernel}. Type kernel={kernel + 1}.")
        self.sides = (kernel - 1, 0) if causal else (kernel // 2, kernel // 2)
        self.stride = stride
        self.norm, self.gate = nn.LayerNorm(dim), nn.Linear(dim, 2 * dim)
        self.depthwise = nn.Conv1d(dim, dim, kernel, stride=stride, groups=dim)
        self.batch, self.out = nn.BatchNorm1d(dim), nn.Linear(dim, width)

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        x = F.glu(self.gate(self.norm(tokens)), -1)
        if padding is not None:
            x = x.masked_fill(~padding[..., None], 0.0)
        x = self.depthwise(F.pad(x.transpose(1, 2), self.sides)).transpose(1, 2)
        real = torch.ones_like(x[..., 0], dtype=torch.bool) if padding is None else padding[:, :: self.stride]
        return self.out(F.silu(x.masked_scatter(real[..., None], self.batch(x[real]))))


class ConformerBlock(nn.Module):
    """Half a feed-forward map, attention of groups, a convolution, the other half and a norm.

    With `stride` above 1 the block gives ceil(N / stride) tokens, by its convolution or, where `strided` is
    "attention", by its attention; with `width` they are that wide.

    Shapes: tokens [B, N, dim] to [B, ceil(N / stride), width]; padding boolean [B, N], which is given back strided.
    """

    def __init__(
        self, dim: int, heads: int, *, width: int | None = None, group: int = 1, stride: int = 1, kernel: int = 15,
        strided: str = "convolution", causal: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        if strided not in ("convolution", "attention"):
            raise ValueError(f"ConformerBlock.strided must be 'convolution' or 'attention'; got {strided!r}.")
        width = dim if width is None else width
        first, second = (stride, 1) if strided == "attention" else (1, stride)
        self.strides, self.causal = (first, second), causal
        self.before, self.after = _feed_forward(dim), _feed_forward(width)
        self.ahead = nn.LayerNorm(dim)
        if first > 1:
            self.attention = StridedAttention(dim, heads, stride=first, relative=True, causal=causal)
        else:
            self.attention = GroupedAttention(dim, heads, group=group, relative=True)
        self.convolution = Convolution(dim, width, kernel=kernel, stride=second, causal=causal)
        self.past = nn.Linear(dim, width) if width != dim or second > 1 else nn.Identity()
        self.norm = nn.LayerNorm(width)

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        first, second = self.strides
        x = tokens + self.before(tokens) / 2
        if isinstance(self.attention, StridedAttention):
            read = self.attention(self.ahead(x), padding)
        else:
            read = self.attention(self.ahead(x), causal=self.causal, padding=padding)
        x, padding = x[:, ::first] + read, None if padding is None else padding[:, ::first]
        x = self.past(x[:, ::second]) + self.convolution(x, padding)
        return self.norm(x + self.after(x) / 2), None if padding is None else padding[:, ::second]


class EfficientConformer(nn.Module):
    """A stem that halves the time, and stages of blocks, each but the last of which ends in a block that halves it.

    `dims`, `blocks` and `groups` have one number for each stage. What comes out is for connectionist temporal
    classification, with one class more than the vocabulary, the last, for nothing.

    Shapes: sound [B, T, mels] to logits [B, T', vocabulary + 1] and the boolean padding [B, T'], True = real, with T'
    = T halved, rounded up, as often as there are stages; padding boolean [B, T].
    Raises: ShapeError, ValueError where sizes do not fit.
    Source: "Efficient conformer", 2109.01163, section 3; its released code.
    """

    def __init__(
        self,
        mels: int,
        vocabulary: int,
        *,
        dims: Sequence[int] = (120, 168, 240),
        blocks: Sequence[int] = (5, 5, 5),
        groups: Sequence[int] = (3, 1, 1),
        heads: int = 4,
        kernel: int = 15,
        strided: str = "convolution",
        causal: bool = False,
    ) -> None:
        super().__init__()
        if not len(dims) == len(blocks) == len(groups) >= 1 or min(blocks) < 1:
            raise ValueError(
                f"EfficientConformer needs a width, a number of blocks from 1 and a group for each stage; got dims="
                f"{tuple(dims)}, blocks={tuple(blocks)}, groups={tuple(groups)}."
            )
        self.mels, self.sides = mels, (2, 0) if causal else (1, 1)
        self.stem = nn.Conv2d(1, dims[0], 3, stride=2, padding=(0, 1))
        self.batch = nn.BatchNorm2d(dims[0])
        self.read = nn.Linear(dims[0] * -(-mels // 2), dims[0])
        made = []
        for stage, (dim, count, group) in enumerate(zip(dims, blocks, groups, strict=True)):
            for block in range(count):
                ends = block == count - 1 and stage < len(dims) - 1
                width, stride = (dims[stage + 1], 2) if ends else (dim, 1)
                made.append(
                    ConformerBlock(
                        dim, heads, width=width, group=group, stride=stride, kernel=kernel, strided=strided,
                        causal=causal,
                    )
                )  # fmt: skip
        self.blocks = nn.ModuleList(made)
        self.head = nn.Linear(dims[-1], vocabulary + 1)

    def forward(self, sound: Tensor, padding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        _fits(self, sound, self.mels, padding)
        real = torch.ones_like(sound[..., 0], dtype=torch.bool) if padding is None else padding
        sound = sound.masked_fill(~real[..., None], 0.0)
        x = F.silu(self.batch(self.stem(F.pad(sound[:, None], (0, 0, *self.sides)))))
        x, left = self.read(x.transpose(1, 2).flatten(2)), real[:, ::2]
        mask = None if padding is None else left
        for block in self.blocks:
            x, mask = block(x, mask)
        return self.head(x), torch.ones_like(x[..., 0], dtype=torch.bool) if mask is None else mask


def _feed_forward(dim: int) -> nn.Sequential:
    return nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.SiLU(), nn.Linear(4 * dim, dim))


def _fits(module: nn.Module, tokens: Tensor, dim: int, padding: Tensor | None) -> None:
    name = type(module).__name__
    if tokens.dim() != 3 or tokens.shape[-1] != dim:
        raise ShapeError(f"{name} takes [B, N, {dim}]; got {list(tokens.shape)}.")
    if padding is not None and (padding.dtype != torch.bool or padding.shape != tokens.shape[:2]):
        want = list(tokens.shape[:2])
        raise ShapeError(f"{name} takes padding as booleans {want}; got {padding.dtype} {list(padding.shape)}.")
