"""Multi-token attention beyond its spec: every part of it against plain loops, and padding between tokens."""

import itertools
import math

import pytest
import torch
from torch import Tensor

import regard
from regard.mechanisms import Call, Layer
from regard.mechanisms.dense import MultiTokenAttention
from regard.testing import subjects

SETTINGS = [
    {},
    {"after": True, "query_kernel": 3, "key_kernel": 3},
    {"mix_before": True, "head_kernel": 4, "query_kernel": 2, "key_kernel": 5},
    {"norm": True, "gate": True, "head_kernel": 1, "query_kernel": 1},
    {"norm": True, "rescale": True, "after": True, "mix_before": True},
]


def loops(mixer: MultiTokenAttention, q: Tensor, k: Tensor, v: Tensor, layer: int) -> Tensor:
    """The causal formula for [H, N, D], number by number."""
    H, N, D = q.shape
    held = dict(mixer.named_parameters())

    def convolved(rows: list[list[list[Tensor]]], kernel: Tensor) -> list[list[list[Tensor]]]:
        _, _, queries, keys = kernel.shape
        found = [[[torch.zeros(()).double() for _ in range(N)] for _ in range(N)] for _ in range(H)]
        for h, i, j, a, b in itertools.product(range(H), range(N), range(N), range(queries), range(keys)):
            row, column = i - a, j + b - keys // 2
            if row >= 0 and 0 <= column <= row:
                found[h][i][j] = found[h][i][j] + kernel[h, 0, queries - 1 - a, b] * rows[h][row][column]
        return found

    scores = [[[q[h, i] @ k[h, j] / math.sqrt(D) for j in range(N)] for i in range(N)] for h in range(H)]
    scores = convolved(scores, held["kernel"])
    if "heads_before" in held:
        W = held["heads_before"]
        scores = [
            [[sum(W[h, g] * scores[g][i][j] for g in range(H)) for j in range(N)] for i in range(N)] for h in range(H)
        ]
    weights = []
    for h in range(H):
        weights.append([])
        for i in range(N):
            powers = [torch.exp(scores[h][i][j]) for j in range(i + 1)]
            weights[h].append([power / sum(powers) for power in powers] + [torch.zeros(()).double()] * (N - i - 1))
    if "kernel_after" in held:
        weights = convolved(weights, held["kernel_after"])
    size = mixer.head_kernel
    if size > 1:
        W = held["heads_after"]
        weights = [
            [
                [
                    sum(W[h // size, h % size, g] * weights[h // size * size + g][i][j] for g in range(size))
                    for j in range(N)
                ]
                for i in range(N)
            ]
            for h in range(H)
        ]
    out = torch.stack(
        [torch.stack([sum(weights[h][i][j] * v[h, j] for j in range(i + 1)) for i in range(N)]) for h in range(H)]
    )
    if "norm" in held:
        out = out / (out.square().mean(-1, keepdim=True) + 1e-5).sqrt() * held["norm"]
        if mixer.rescale:
            out = out * (1 - (0.8 - 0.6 * math.exp(-0.3 * layer)))
    if "gate.weight" in held:
        out = out / (1 + torch.exp(-(out @ held["gate.weight"][0] + held["gate.bias"])))[..., None]
    return out


def stirred(**settings: object) -> Layer:
    return subjects("mta")[0].layer(settings=settings)


def parts(layer: Layer, x: Tensor) -> tuple[MultiTokenAttention, tuple[Tensor, Tensor, Tensor]]:
    call = Call(tokens=x, memory=x, causal=True)
    return layer.mixer, layer.projection(call)  # type: ignore[operator, return-value]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_equals_plain_loops(settings: dict[str, object]):
    x = subjects("mta")[0].tokens(batch=1, length=7)
    mixer, (q, k, v) = parts(stirred(**settings), x)
    with torch.no_grad():
        got = mixer(q, k, v, Call(tokens=x, memory=x, causal=True, layer=3))[0]
        torch.testing.assert_close(got, loops(mixer, q[0], k[0], v[0], 3))


def test_kernels_of_one_number_scale_the_scores():
    layer = regard.create("mta", dim=8, heads=2, query_kernel=1, key_kernel=1, head_kernel=1).double()
    plain = regard.create("softmax", dim=8, heads=2, scale=0.5 * 3.0).double()
    with torch.no_grad():
        layer.get_parameter("mixer.kernel").fill_(3.0)
    plain.load_state_dict(layer.state_dict(), strict=False)
    x = torch.randn(2, 6, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x, causal=True), plain(x, causal=True))


def test_a_kernel_knows_no_place_away_from_the_borders():
    """Scores that depend on the distance alone, convolved, still do."""
    mixer = MultiTokenAttention(8, 2, 4, query_kernel=3, key_kernel=5).double()
    torch.nn.init.normal_(mixer.kernel, std=0.3, generator=torch.Generator().manual_seed(0))
    angles = torch.arange(24).double() * 0.4
    turning = torch.stack([angles.cos(), angles.sin()], -1).expand(1, 2, 24, 2)
    places = torch.arange(24)[None]
    scores = (turning @ turning.transpose(-1, -2)).tril()
    found = mixer._convolved(scores, mixer.kernel)
    inner = torch.stack([found[:, :, i, i - 9 : i - 1] for i in range(11, 24)], 2)
    torch.testing.assert_close(inner, inner[:, :, :1].expand_as(inner))
    assert mixer._weights(turning, turning, places, places).shape == (1, 2, 24, 24)


@pytest.mark.parametrize("settings", [{}, {"after": True, "query_kernel": 3}], ids=str)
def test_padding_between_tokens_is_taken_out(settings: dict[str, object]):
    subject = subjects("mta")[0]
    layer, x = stirred(**settings), subject.tokens(batch=1, length=9)
    real = torch.tensor([[True, False, True, True, False, False, True, True, True, False, True, True, True]])
    holed = subject.tokens(seed=3, batch=1, length=13) * 9
    holed[real] = x[0]
    alone = layer(x, causal=True)
    torch.testing.assert_close(layer(holed, causal=True, padding=real)[real], alone[0])
    state, outs = layer.init_state(1), []
    for first, last in ((0, 2), (2, 5), (5, 6), (6, 13)):
        out, state = layer.step(state, holed[:, first:last], padding=real[:, first:last])
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1)[real], alone[0])


def test_decoding_keeps_the_queries_that_later_weights_need_and_no_more():
    for settings, reach in (({}, 5), ({"after": True}, 10), ({"query_kernel": 1}, 0)):
        layer = stirred(**settings)
        _, state = layer.prefill(subjects("mta")[0].tokens(length=24))
        assert state.inner.kept.queries.shape[2] == reach


def test_it_adds_few_parameters():
    def count(**settings: object) -> int:
        return sum(p.numel() for p in MultiTokenAttention(32, 4, 8, **settings).parameters())  # type: ignore[arg-type]

    assert count(head_kernel=1) == 4 * 6 * 11
    assert count() == 4 * 6 * 11 + 2 * 2 * 2
    assert count(after=True, mix_before=True, head_kernel=4, norm=True, gate=True) == 2 * 4 * 66 + 16 + 16 + 8 + 9
    assert MultiTokenAttention(9, 3, 3).head_kernel == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"key_kernel": 4}, r"key_kernel must be odd.*got 4\. Type key_kernel=5"),
        ({"head_kernel": 3}, r"head_kernel=3 must divide heads=4\. Type head_kernel=2"),
        ({"query_kernel": 0}, r"query_kernel must be at least 1; got 0"),
        ({"rescale": True}, r"rescale=True shrinks what norm=True makes; got norm=False"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], said: str):
    with pytest.raises(ValueError, match=rf"MultiTokenAttention\.{said}"):
        regard.create("mta", dim=8, heads=4, **settings)


def test_documents_shorter_than_the_kernel_are_kept_apart_with_padding_between() -> None:
    layer, x = stirred(query_kernel=9, key_kernel=5, after=True), subjects("mta")[0].tokens(batch=1, length=7)
    real = torch.tensor([[True, False, True, True, False, True, True, False, True, True]])
    ids = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 2])
    holed = torch.full((1, 10, 32), 9.0, dtype=torch.float64)
    holed[real] = x[0]
    alone = torch.cat([layer(x[:, first:last], causal=True) for first, last in ((0, 3), (3, 6), (6, 7))], 1)
    torch.testing.assert_close(layer(holed, causal=True, padding=real, documents=ids)[real], alone[0])
    joined = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1, 1])
    other = layer(holed, causal=True, padding=real, documents=joined)[real]
    assert not torch.allclose(other, alone[0], atol=1e-3)
