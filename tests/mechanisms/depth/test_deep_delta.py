"""Deep delta learning: what its operator does to the state at beta = 0, 1 and 2."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from regard.mechanisms.depth import DeepDeltaResidual

B, N, S, C = 2, 3, 5, 8


def given(channels: int = 2) -> tuple[torch.Tensor, ...]:
    source = torch.Generator().manual_seed(0)
    state = torch.randn(B, N, C, channels, generator=source, dtype=torch.float64)
    k = F.normalize(torch.randn(B, N, C, generator=source, dtype=torch.float64), dim=-1)
    value = torch.randn(B, N, channels, generator=source, dtype=torch.float64)
    return state, k, value, (k[..., None] * state).sum(-2)


def beta(value: float) -> torch.Tensor:
    return torch.full((B, N), value, dtype=torch.float64)


def test_at_0_nothing_changes_at_1_the_value_is_written_at_2_the_state_is_reflected() -> None:
    state, k, value, held = given()
    rewritten = DeepDeltaResidual.rewritten
    torch.testing.assert_close(rewritten(state, k, beta(0.0), value), state)
    after = rewritten(state, k, beta(1.0), value)
    torch.testing.assert_close((k[..., None] * after).sum(-2), value)
    torch.testing.assert_close(rewritten(state, k, beta(1.0), held), state)
    mirrored = rewritten(state, k, beta(2.0), torch.zeros_like(value))
    torch.testing.assert_close(mirrored.norm(dim=-2), state.norm(dim=-2))
    torch.testing.assert_close((k[..., None] * mirrored).sum(-2), -held)


def test_a_sub_layer_writes_along_its_output_only() -> None:
    torch.manual_seed(0)
    depth = DeepDeltaResidual(C, layers=S).double()
    x = torch.randn(B, N, S, C, dtype=torch.float64)
    change = depth(x).diff(dim=2)
    torch.testing.assert_close(F.cosine_similarity(change, x[:, :, 1:], dim=-1).abs(), torch.ones(B, N, S - 1).double())
    torch.testing.assert_close(depth(torch.cat([x[:, :, :1], 7 * x[:, :, 1:]], 2)), depth(x))


def test_the_first_state_is_the_input_and_beta_starts_at_one() -> None:
    depth = DeepDeltaResidual(C, layers=S, channels=3, value="constant").double()
    depth.write.data.zero_()
    x = torch.randn(B, N, 2, C, dtype=torch.float64)
    out = depth(x)
    torch.testing.assert_close(out[:, :, 0], x[:, :, 0])
    torch.testing.assert_close((out[:, :, 1] * F.normalize(x[:, :, 1], dim=-1)).sum(-1), beta(2.0))
    depth.write_bias.data.fill_(-50.0)
    torch.testing.assert_close(depth(x)[:, :, 1], x[:, :, 0])


@pytest.mark.parametrize(("value", "count"), [("sigmoid", C + 1 + 2 * C + 2 + 2), ("constant", C + 1 + 2)])
def test_parameters_per_layer(value: str, count: int) -> None:
    assert sum(p.numel() for p in DeepDeltaResidual(C, layers=4, channels=2, value=value).parameters()) == 4 * count


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"DeepDeltaResidual\.channels must be at least 1; got 0"):
        DeepDeltaResidual(C, channels=0)
    with pytest.raises(ValueError, match=r"value must be one of 'sigmoid', 'linear', 'constant'; got 'free'"):
        DeepDeltaResidual(C, value="free")
