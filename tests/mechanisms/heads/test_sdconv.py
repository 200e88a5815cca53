"""Span-based dynamic convolution: kernels, what they reach, padding and decoding."""

from __future__ import annotations

import pytest
import torch

from regard.errors import ShapeError
from regard.mechanisms.heads import SpanDynamicConvolution
from regard.mechanisms.heads.sdconv import GroupedFeedForward


def _layer(**settings: object) -> SpanDynamicConvolution:
    torch.manual_seed(0)
    layer = SpanDynamicConvolution(32, 4, **settings).double()  # type: ignore[arg-type]
    if layer.span:  # large enough for the span to matter
        layer.depthwise.data *= 20
        layer.pointwise.data *= 20
    for name, parameter in layer.named_parameters():
        if name.endswith("bias"):  # they start at zero
            torch.nn.init.normal_(parameter)
    return layer


def _tokens(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("causal", [False, True])
def test_taps_add_up_to_one(causal: bool) -> None:
    kernels = _layer().kernels(_tokens(2, 12, 32), causal=causal)
    assert kernels.shape == (2, 12, 2, 9)
    torch.testing.assert_close(kernels.sum(-1), torch.ones(2, 12, 2, dtype=torch.float64))


@pytest.mark.parametrize(("causal", "reach"), [(False, range(8, 13)), (True, range(6, 11))])
def test_the_convolution_reaches_its_kernel_and_nothing_else(causal: bool, reach: range) -> None:
    layer = _layer(kernel=5)
    layer.out.weight.data.zero_()  # leaves the convolution alone
    x = _tokens(1, 20, 32).requires_grad_()
    (slope,) = torch.autograd.grad(layer(x, causal=causal)[0, 10].sum(), x)
    assert slope[0].abs().sum(-1).nonzero()[:, 0].tolist() == list(reach)


def test_a_kernel_of_one_mixes_nothing() -> None:
    layer, x = _layer(kernel=1), _tokens(2, 6, 32)
    layer.out.weight.data.zero_()
    torch.testing.assert_close(layer(x), layer.out_local(layer.value(x)))


def test_a_span_key_of_ones_is_the_ordinary_dynamic_convolution() -> None:
    spanned, plain, x = _layer(), _layer(span=False), _tokens(2, 12, 32)
    plain.load_state_dict({n: p for n, p in spanned.state_dict().items() if n in plain.state_dict()})
    assert not torch.allclose(spanned(x), plain(x))
    spanned.pointwise.data.zero_()
    spanned.span_bias.data.fill_(1.0)
    torch.testing.assert_close(spanned(x), plain(x))


@pytest.mark.parametrize(("heads", "ratio", "left"), [(4, 2, 2), (4, 1, 4), (4, 8, 1), (6, 3, 2)])
def test_heads_left_of_either_kind(heads: int, ratio: int, left: int) -> None:
    layer = SpanDynamicConvolution(24, heads, ratio=ratio)
    assert layer.local_heads == left
    assert layer.q.weight.shape[0] == left * 24 // heads


def test_half_the_heads_have_fewer_weights_for_queries_keys_and_values() -> None:
    layer = SpanDynamicConvolution(32, 4)
    assert sum(getattr(layer, n).weight.numel() for n in ("q", "k", "v", "value")) < 3 * 32 * 32


def test_padding_between_real_tokens_is_absent() -> None:
    layer, x = _layer(bias=True), _tokens(1, 9, 32)
    real = torch.tensor([[True, False, True, True, False, False, True, True, True]])
    for causal in (False, True):
        torch.testing.assert_close(layer(x, causal=causal, padding=real)[real], layer(x[real][None], causal=causal)[0])


def test_a_prompt_padded_on_the_right_goes_on_as_it_does_alone() -> None:
    layer, x = _layer(bias=True), _tokens(1, 9, 32)
    prompt = torch.cat([x[:, :5], _tokens(1, 3, 32) * 20], 1)
    _, state = layer.prefill(prompt, padding=torch.arange(8)[None] < 5)
    outs = []
    for t in range(5, 9):
        out, state = layer.step(state, x[:, t : t + 1])
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), layer(x, causal=True)[:, 5:])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"kernel": 4}, "kernel must be odd; got 4. Type kernel=5"),
        ({"kernel": 0}, "kernel must be at least 1; got 0"),
        ({"ratio": 0}, "ratio must be at least 1; got 0"),
        ({"ratio": 3}, "ratio=3 must divide heads=4. Type ratio=2"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        _layer(**settings)


def test_a_width_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ShapeError, match="not a multiple of heads=5"):
        SpanDynamicConvolution(32, 5)
    with pytest.raises(ShapeError, match="needs at least one token"):
        SpanDynamicConvolution(32, 4)(torch.zeros(1, 0, 32))


def test_documents_do_not_reach_each_other_through_a_wide_kernel() -> None:
    layer, x = _layer(kernel=9, bias=True), _tokens(1, 7, 32)
    ids, parts = torch.tensor([0, 0, 1, 2, 2, 2, 2]), (slice(0, 2), slice(2, 3), slice(3, 7))
    for causal in (False, True):
        alone = torch.cat([layer(x[:, part], causal=causal) for part in parts], 1)
        torch.testing.assert_close(layer(x, causal=causal, documents=ids), alone)


def test_grouped_maps_are_a_whole_map_with_zeros_between_groups() -> None:
    torch.manual_seed(0)
    made, x = GroupedFeedForward(8, 24, groups=4).double(), _tokens(2, 5, 8)
    up, down = (torch.block_diag(*(linear.weight for linear in part)) for part in (made.up, made.down))
    torch.testing.assert_close(made(x), torch.nn.functional.gelu(x @ up.T) @ down.T)
    assert up.shape == (24, 8)
    assert sum(linear.weight.numel() for linear in [*made.up, *made.down]) == 2 * 8 * 24 // 4
    with pytest.raises(ValueError, match="groups must divide dim=8 and hidden=32; got 3"):
        GroupedFeedForward(8, groups=3)
