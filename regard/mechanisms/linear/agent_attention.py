"""Agent attention: a few agents read the tokens, and the tokens read the agents."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.core import Cost, Limit, Source, Spec
from regard.edits import softmax
from regard.errors import ShapeError, Unsupported
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer

TABLE = 7  # entries of a table of biases along an axis, stretched to the tokens there are


class AgentAttention(Mixer):
    """Agents pooled from the queries gather the values by softmax, and each query reads the agents by softmax.

    `agents` are means of as many stretches of the queries, or of the squares of a `grid` of (height, width) tokens,
    which then must be a square number; `source="learned"` has parameters for them. `bias` adds small tables to both
    scores, stretched over the tokens; `kernel` is the width of the depthwise convolution of the values that is added to
    restore what few agents lose (0: none). With `class_token` the first token is outside the grid: agents read it, it
    is in none, and has no convolution. `mixer.grid` may be set to another resolution.

    Shapes: q [B, H, N, D]; k [B, G, N, D]; v [B, G, N, E]; result [B, H, N, E].
    Raises: ValueError for a setting out of range; ShapeError where the tokens are not the grid's; Unsupported for
    padding in a grid.
    Source: "Agent Attention: On the Integration of Softmax and Linear Attention", 2312.08874, section 4.
    Differs from the paper: the form without a grid is not in it. `agent_attention` is its form with any agents, for
    another sequence's keys and for pretrained layers.
    """

    spec: ClassVar[Spec] = Spec(
        id="agent_attention",
        slot="mixer",
        source=Source(
            "Agent Attention: On the Integration of Softmax and Linear Attention",
            "2312.08874",
            "section 4",
            authors="Han, Dongchen and Ye, Tianzhu and Han, Yizeng and Xia, Zhuofan and Pan, Siyuan and Wan, Pengfei "
            "and Song, Shiji and Huang, Gao",
        ),
        what="A few agents pooled from the queries read all tokens by softmax, and the queries read the agents.",
        formula="out = softmax(s q A^T + B2) softmax(s A k^T + B1) v + depthwise(v),  s = 1 / sqrt(D)\n"
        "A: means of stretches of q",
        causal=False,
        decode=False,
        packing=False,
        cost=Cost(time=1, state=0),
        limits=(
            Limit("agent_mixing"),
            Limit("agent_mixing", agents=4),
            Limit("agent_mixing", agents=1, kernel=0, bias=False),
            Limit("agent_mixing", agents=3, source="learned", kernel=5),
        ),
        variants=({"agents": 4, "kernel": 5}, {"agents": 3, "source": "learned", "kernel": 0}),
    )

    def __init__(
        self,
        heads: int,
        head_dim: int,
        value_dim: int,
        *,
        agents: int = 49,
        grid: tuple[int, int] | None = None,
        class_token: bool = False,
        source: str = "pooled",
        bias: bool = True,
        kernel: int = 3,
    ) -> None:
        super().__init__()
        self.heads, self.agents, self.grid, self.class_token = heads, agents, grid, class_token
        self.source, self.bias, self.kernel = source, bias, kernel
        self.at_least(agents=1, kernel=0)
        self.one_of("source", ("pooled", "learned"))
        if kernel % 2 == 0 and kernel:
            raise ValueError(
                f"AgentAttention.kernel must be odd, or 0 for none; got {kernel}. Type kernel={kernel + 1}."
            )
        side = round(agents**0.5)
        if grid is not None and (len(grid) != 2 or min(grid) < 1):
            raise ValueError(f"AgentAttention.grid must be a height and a width of at least 1; got {grid}.")
        if grid is not None and source == "pooled" and side * side != agents:
            raise ValueError(
                f"AgentAttention.agents must be a square number where a grid is pooled; got {agents}. Type "
                f"agents={side * side}."
            )
        if source == "learned":
            self.learned = nn.Parameter(torch.randn(heads, agents, head_dim))
        if kernel:
            kind = nn.Conv1d if grid is None else nn.Conv2d
            wide = heads * value_dim
            self.near = kind(wide, wide, kernel, padding=kernel // 2, groups=wide)
        if bias:
            shape = (TABLE,) if grid is None else (TABLE, TABLE)
            self.first, self.second = (_table(heads, agents, *shape) for _ in range(2))
            if grid is not None:
                h, w = grid
                self.first_row, self.second_row = (_table(heads, agents, h) for _ in range(2))
                self.first_column, self.second_column = (_table(heads, agents, w) for _ in range(2))
            if class_token:
                self.first_class, self.second_class = (_table(heads, agents, 1) for _ in range(2))

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        repeats = q.shape[1] // k.shape[1]
        k, v = (x.repeat_interleave(repeats, 1) for x in (k, v))
        beside = int(self.class_token)
        if self.grid is not None:
            if call.padded:
                raise Unsupported(
                    "AgentAttention can't leave padding out of a grid. Leave padding= out, or type grid=None."
                )
            if q.shape[2] != self.grid[0] * self.grid[1] + beside:
                raise ShapeError(
                    f"AgentAttention.grid={self.grid} has {self.grid[0] * self.grid[1]} tokens"
                    f"{' and a class token' * beside}; got {q.shape[2]}. Set grid to the tokens' height and width."
                )
        if not call.padded or call.real is None:
            return self._mixed(q, k, v, None)
        # What is real comes first, so that padding is between none of it.
        real = call.real.expand(q.shape[0], -1)
        order = (~real).to(torch.int8).argsort(dim=1, stable=True)
        shown = real.gather(1, order)
        packed = [
            x.take_along_dim(order[:, None, :, None], 2).masked_fill(~shown[:, None, :, None], 0.0) for x in (q, k, v)
        ]
        out = self._mixed(packed[0], packed[1], packed[2], shown)
        return out.take_along_dim(order.argsort(1)[:, None, :, None], 2)

    def _mixed(self, q: Tensor, k: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
        beside, N = int(self.class_token), q.shape[2] - int(self.class_token)
        count = torch.full((1,), N, device=q.device) if real is None else (real.sum(1) - beside).clamp(min=1)
        agents = self.learned.to(q.dtype)[None] if self.source == "learned" else self._pooled(q[:, :, beside:], count)
        first = self._bias("first", count, N) if self.bias else None
        second = self._bias("second", count, N).transpose(-1, -2) if self.bias else None
        out = agent_attention(q, agents, k, v, first_bias=first, second_bias=second, real=real)
        if not self.kernel:
            return out
        inner = v[:, :, beside:].transpose(2, 3).flatten(1, 2)  # [B, H E, N]
        near = self.near(inner if self.grid is None else inner.unflatten(2, self.grid)).flatten(2)
        near = near.unflatten(1, (self.heads, -1)).transpose(2, 3)
        return out + F.pad(near, (0, 0, beside, 0))

    def _pooled(self, q: Tensor, count: Tensor) -> Tensor:
        """Agents [B, H, agents, D] from queries [B, H, N, D], of which `count` [B|1] are real."""
        if self.grid is not None:
            image, side = q.transpose(2, 3).flatten(1, 2).unflatten(2, self.grid), round(self.agents**0.5)
            pooled = F.adaptive_avg_pool2d(image, (side, side)).flatten(2)
            return pooled.unflatten(1, (q.shape[1], -1)).transpose(2, 3)
        a, at = torch.arange(self.agents, device=q.device), torch.arange(q.shape[2], device=q.device)
        begin = a * count[:, None] // self.agents
        end = -(-(a + 1) * count[:, None] // self.agents)
        inside = (begin[..., None] <= at) & (at < end[..., None])
        share = inside.to(q.dtype) / (end - begin).clamp(min=1)[..., None]
        return share[:, None] @ q

    def _bias(self, name: str, count: Tensor, N: int) -> Tensor:
        """A table of biases over the tokens, [B|1, H, agents, N]."""
        table = self.get_parameter(name)
        if self.grid is None:
            along = _stretch(TABLE, count, N).to(table.dtype)
            made = table @ along.transpose(-1, -2)[:, None]
        else:
            h, w = self.grid
            down, across = (
                _stretch(TABLE, torch.full((1,), n, device=table.device), n)[0].to(table.dtype) for n in (h, w)
            )
            image = down @ table @ across.T
            rows, columns = self.get_parameter(f"{name}_row"), self.get_parameter(f"{name}_column")
            if (rows.shape[-1], columns.shape[-1]) != (h, w):
                rows = F.interpolate(rows, h, mode="linear")
                columns = F.interpolate(columns, w, mode="linear")
            made = (image + rows[..., None] + columns[..., None, :]).flatten(-2)[None]
        if self.class_token:
            one = self.get_parameter(f"{name}_class")[None].expand(made.shape[0], -1, -1, -1)
            made = torch.cat([one, made], -1)
        return made


def agent_attention(
    q: Tensor,
    agents: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    scale: float | None = None,
    second_scale: float | None = None,
    shortcut: float = 0.0,
    first_bias: Tensor | None = None,
    second_bias: Tensor | None = None,
    real: Tensor | None = None,
) -> Tensor:
    """Two softmaxes through any agents: these read keys and values, and queries read these.

    On a pretrained layer without training, as the paper has it for diffusion: agents are a part of the layer's own
    queries, `second_scale` is D ** (-0.5 * 0.3) and `shortcut`, how much of the values is added, 0.075. The keys may be
    another sequence's where there is no shortcut.

    Shapes: q [B, H, N, D]; agents [B|1, H, n, D]; k [B, H, M, D]; v [B, H, M, E]; first_bias broadcasting to
    [B, H, n, M] and second_bias to [B, H, N, n]; real boolean [B|1, M]; result [B, H, N, E].
    Raises: ShapeError for a shortcut from another sequence.
    Source: "Agent Attention: On the Integration of Softmax and Linear Attention", 2312.08874, sections 4 and 5.
    """
    if shortcut and q.shape[2] != v.shape[2]:
        raise ShapeError(
            f"agent_attention has no shortcut from {v.shape[2]} values to {q.shape[2]} queries. Type shortcut=0."
        )
    usual = float(q.shape[-1]) ** -0.5 if scale is None else scale
    first = agents @ k.transpose(-1, -2) * usual
    second = q @ agents.transpose(-1, -2) * (usual if second_scale is None else second_scale)
    first = first if first_bias is None else first + first_bias
    second = second if second_bias is None else second + second_bias
    gathers = softmax.weights(first, None if real is None else real[:, None, None])
    read = gathers @ v.to(gathers.dtype)
    out = (second.to(gathers.dtype).softmax(-1) @ read).to(v.dtype)
    return out + shortcut * v if shortcut else out


def _table(*shape: int) -> nn.Parameter:
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02))


def _stretch(table: int, count: Tensor, N: int) -> Tensor:
    """How N tokens, of which `count` [B|1] are real, lie between the entries of a table: [B|1, N, table]."""
    slots = torch.arange(N, device=count.device, dtype=torch.float64)
    at = (slots + 0.5) * table / count[:, None] - 0.5
    entries = torch.arange(table, device=count.device)
    return (1 - (at.clamp(0, table - 1)[..., None] - entries).abs()).clamp(min=0)
