"""Agent attention: agents of grids, biases of other resolutions, class tokens, and any agents without training."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from regard.errors import ShapeError, Unsupported
from regard.layers import create
from regard.mechanisms import Call
from regard.mechanisms.linear import AgentAttention
from regard.mechanisms.linear.agent_attention import agent_attention


def _heads(N: int, H: int = 2, D: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    source = torch.Generator().manual_seed(0)
    return tuple(torch.randn(2, H, N, D, generator=source, dtype=torch.float64) for _ in range(3))  # type: ignore[return-value]


def _mixed(mixer: AgentAttention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    zeros = q.new_zeros(2, q.shape[2], 1)
    return mixer(q, k, v, Call(tokens=zeros, memory=zeros))


def _mixer(**settings: object) -> AgentAttention:
    torch.manual_seed(0)
    mixer = AgentAttention(2, 4, 4, **settings).double()  # type: ignore[arg-type]
    for name, parameter in mixer.named_parameters():
        if name.startswith(("first", "second")):  # large enough to show
            parameter.data *= 50
    return mixer


def _explicit(q: Tensor, a: Tensor, k: Tensor, v: Tensor, b1: Tensor | float = 0.0, b2: Tensor | float = 0.0) -> Tensor:
    P1, P2 = (a @ k.mT / 2 + b1).softmax(-1), (q @ a.mT / 2 + b2).softmax(-1)
    product = P2 @ P1
    assert torch.allclose(product.sum(-1), torch.ones_like(product[..., 0]))
    assert int(torch.linalg.matrix_rank(product).max()) <= a.shape[2]
    return product @ v


@pytest.mark.parametrize("grid", [(4, 4), (3, 6)])
@pytest.mark.parametrize("class_token", [False, True])
def test_a_grid_is_pooled_biased_and_convolved_as_an_image(grid: tuple[int, int], class_token: bool) -> None:
    mixer = _mixer(agents=4, grid=grid, class_token=class_token)
    (h, w), beside = grid, int(class_token)
    q, k, v = _heads(h * w + beside)
    image = q[:, :, beside:].mT.flatten(1, 2).unflatten(2, grid)
    agents = F.adaptive_avg_pool2d(image, 2).flatten(2).unflatten(1, (2, 4)).mT

    def table(name: str) -> Tensor:
        p = dict(mixer.named_parameters())
        whole = F.interpolate(p[name], grid, mode="bilinear")
        whole = (whole + p[f"{name}_row"][..., None] + p[f"{name}_column"][..., None, :]).flatten(2)
        return torch.cat([p[f"{name}_class"], whole], -1) if class_token else whole

    want = _explicit(q, agents, k, v, table("first"), table("second").mT)
    inner = v[:, :, beside:].mT.flatten(1, 2).unflatten(2, grid)
    near = F.conv2d(inner, mixer.near.weight, mixer.near.bias, padding=1, groups=8)
    near = near.flatten(2).unflatten(1, (2, 4)).mT
    torch.testing.assert_close(_mixed(mixer, q, k, v), want + F.pad(near, (0, 0, beside, 0)))


def test_another_resolution_stretches_the_biases() -> None:
    mixer = _mixer(agents=4, grid=(4, 4), kernel=0)
    q, k, v = _heads(6 * 5)
    mixer.grid = (6, 5)
    p = dict(mixer.named_parameters())
    agents = F.adaptive_avg_pool2d(q.mT.flatten(1, 2).unflatten(2, (6, 5)), 2).flatten(2).unflatten(1, (2, 4)).mT
    bias = []
    for name in ("first", "second"):
        rows, columns = (
            F.interpolate(p[f"{name}_{along}"], n, mode="linear") for along, n in (("row", 6), ("column", 5))
        )
        bias.append(F.interpolate(p[name], (6, 5), mode="bilinear") + rows[..., None] + columns[..., None, :])
    want = _explicit(q, agents, k, v, bias[0].flatten(2), bias[1].flatten(2).mT)
    torch.testing.assert_close(_mixed(mixer, q, k, v), want)


def test_a_class_token_in_a_line_is_read_and_reads_but_is_in_no_agent() -> None:
    mixer, (q, k, v) = _mixer(agents=3, class_token=True, bias=False), _heads(10)
    agents = q[:, :, 1:].unflatten(2, (3, 3)).mean(3)
    near = F.conv1d(v[:, :, 1:].mT.flatten(1, 2), mixer.near.weight, mixer.near.bias, padding=1, groups=8)
    want = _explicit(q, agents, k, v) + F.pad(near.unflatten(1, (2, 4)).mT, (0, 0, 1, 0))
    torch.testing.assert_close(_mixed(mixer, q, k, v), want)


def test_one_agent_pools_all_tokens_for_all() -> None:
    mixer, (q, k, v) = _mixer(agents=1, kernel=0, bias=False), _heads(9)
    want = (q.mean(2, keepdim=True) @ k.mT / 2).softmax(-1) @ v
    torch.testing.assert_close(_mixed(mixer, q, k, v), want.expand_as(v))


def test_queries_of_zero_read_the_mean_of_the_agents() -> None:
    q, k, v = _heads(9)
    agents = q[:, :, :3]
    want = ((agents @ k.mT / 2).softmax(-1) @ v).mean(2, keepdim=True)
    torch.testing.assert_close(agent_attention(0 * q, agents, k, v), want.expand_as(v))


def test_agents_that_are_the_queries_read_as_softmax_attention_does() -> None:
    q, k, v = _heads(9)
    only = torch.full((9, 9), -torch.inf).fill_diagonal_(0.0)  # each query reads its own agent
    got = agent_attention(q, q, k, v, second_bias=only)
    torch.testing.assert_close(got, F.scaled_dot_product_attention(q, k, v))


def test_the_form_without_training_has_a_softer_second_scale_and_a_shortcut() -> None:
    q, k, v = _heads(9)
    agents, soft = q[:, :, ::3], 4 ** (-0.5 * 0.3)
    read = (agents @ k.mT / 2).softmax(-1) @ v
    want = (q @ agents.mT * soft).softmax(-1) @ read + 0.075 * v
    torch.testing.assert_close(agent_attention(q, agents, k, v, second_scale=soft, shortcut=0.075), want)


def test_agents_read_only_what_is_real_of_another_sequence() -> None:
    (q, _, _), (_, k, v) = _heads(9), _heads(6)
    real = torch.tensor([[True] * 4 + [False] * 2])
    got = agent_attention(q, q[:, :, :2], k, v, real=real)
    torch.testing.assert_close(got, agent_attention(q, q[:, :, :2], k[:, :, :4], v[:, :, :4]))
    with pytest.raises(ShapeError, match="no shortcut from 6 values to 9 queries. Type shortcut=0"):
        agent_attention(q, q, k, v, shortcut=0.1)


def test_tokens_that_are_no_grid_are_refused() -> None:
    layer = create("agent_attention", dim=8, heads=2, agents=4, grid=(3, 4), class_token=True)
    with pytest.raises(ShapeError, match=r"grid=\(3, 4\) has 12 tokens and a class token; got 12"):
        layer(torch.zeros(1, 12, 8))
    with pytest.raises(Unsupported, match="can't leave padding out of a grid"):
        layer(torch.zeros(1, 13, 8), padding=torch.arange(13)[None] < 9)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"agents": 0}, "agents must be at least 1; got 0"),
        ({"agents": 5, "grid": (4, 4)}, "agents must be a square number where a grid is pooled; got 5. Type agents=4"),
        ({"grid": (0, 4)}, r"at least 1; got \(0, 4\)"),
        ({"kernel": 4}, "kernel must be odd, or 0 for none; got 4. Type kernel=5"),
        ({"source": "strided"}, "source must be one of 'pooled', 'learned'; got 'strided'"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _mixer(**settings)
