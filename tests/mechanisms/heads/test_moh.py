"""Mixture of heads: counts, sums of gates, balance, the straight-through gradient, and the gathered path."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from regard.edits import ALiBi
from regard.errors import Unsupported
from regard.layers import Attention, create
from regard.mechanisms import Call
from regard.mechanisms.heads import MoH
from regard.ops import attend

C, H = 32, 8


def part(**settings: object) -> MoH:
    torch.manual_seed(0)
    return MoH(C, H, C // H, **settings).double()  # type: ignore[arg-type]


def tokens(N: int = 12) -> Tensor:
    return torch.randn(2, N, C, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def queries(N: int = 12) -> Tensor:
    return torch.randn(2, H, N, C // H, dtype=torch.float64, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize(("shared", "active"), [(3, 2), (1, 3), (0, 4), (4, 4), (5, 0)])
def test_gates(shared, active):
    merge, x = part(shared=shared, active=active), tokens()
    gates = merge.gates(x)
    assert gates.shape == (2, 12, H)
    assert ((gates[..., shared:] > 0).sum(-1) == active).all()
    assert (gates[..., :shared] > 0).all()
    a = 2 * merge.weigh(x).softmax(-1) if shared and active else torch.ones(2, 12, 2, dtype=torch.float64)
    torch.testing.assert_close(gates[..., :shared].sum(-1), shared * a[..., 0])
    torch.testing.assert_close(gates[..., shared:].sum(-1), active * a[..., 1])
    if active:
        likes = merge.route(x)
        taken = gates[..., shared:] > 0
        assert (likes.masked_fill(~taken, torch.inf).amin(-1) >= likes.masked_fill(taken, -torch.inf).amax(-1)).all()


def test_half_precision_sends_no_token_to_another_head():
    merge, x = part(shared=3, active=2).bfloat16(), tokens(500).bfloat16()
    gates = merge.gates(x)
    exact = merge.double().gates(x.double())
    assert torch.equal(gates > 0, exact > 0)
    torch.testing.assert_close(gates.double(), exact, rtol=0, atol=1e-5)


def test_query_norms_choose_the_longest():
    merge, q = part(router="query_norm", shared=3, active=2), queries()
    gates = merge.eval().gates(tokens(), q)
    assert (gates[..., :3] == 1).all()
    long = q.square().sum(-1).transpose(1, 2)[..., 3:]
    for b, n in ((0, 0), (1, 7), (0, 11)):
        best = set(long[b, n].argsort()[-2:].tolist())
        assert {h for h in range(5) if gates[b, n, 3 + h]} == best
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    assert [name for name, _ in merge.named_parameters()] == ["out.weight"]


def test_query_norms_with_every_head_change_nothing_bit_for_bit():
    moh = Attention(C, H, merge="moh:router=query_norm,active=4").eval()
    plain = Attention(C, H).eval()
    plain.load_state_dict(moh.state_dict())
    x = tokens().float()
    assert torch.equal(moh(x, causal=True), plain(x, causal=True))


def test_training_passes_the_gradient_straight_through():
    merge = part(router="query_norm", shared=3, active=2).train()
    q = queries().requires_grad_()
    gates = merge.gates(tokens(), q)
    torch.testing.assert_close(gates, merge.eval().gates(tokens(), q), rtol=0, atol=1e-12)
    weight = torch.randn(2, 12, H, dtype=torch.float64)
    (slope,) = torch.autograd.grad((gates * weight).sum(), q)
    other = q.detach().clone().requires_grad_()
    long = other.norm(dim=-1)[:, 3:].transpose(1, 2)
    p = (long / long.std(-1, keepdim=True, correction=0)).softmax(-1)
    (want,) = torch.autograd.grad((p * weight[..., 3:]).sum(), other)
    assert want.abs().max() > 1e-3
    torch.testing.assert_close(slope, want, rtol=1e-6, atol=1e-9)


def test_balance():
    merge, x = part(shared=3, active=2), tokens(400)
    with torch.no_grad():
        merge.route.weight.mul_(1e-9)
    assert abs(merge.balance(x) - 2) < 1e-6  # all are liked alike: `active`
    even, skewed = part(shared=3, active=2), part(shared=3, active=2)
    p, chosen = even.route(x).softmax(-1), even.gates(x)[..., 3:] > 0
    want = 5**2 * (p.flatten(0, 1).mean(0) * chosen.double().flatten(0, 1).mean(0)).mean()
    torch.testing.assert_close(even.balance(x), want)
    with torch.no_grad():
        skewed.route.weight[1:] = -skewed.route.weight[:1]
    one_sided = (
        x - (x @ skewed.route.weight[0] - 5)[..., None] * skewed.route.weight[0] / skewed.route.weight[0].square().sum()
    )
    assert skewed.balance(one_sided) > 4
    real = torch.rand(2, 400, generator=torch.Generator().manual_seed(0)) < 0.5
    torch.testing.assert_close(even.balance(x, real=real), even.balance(x[real][None]))


def test_one_active_head_learns_from_the_balance_alone():
    merge, x = part(shared=3, active=1), tokens()
    gates = merge.gates(x)
    (merge.gates(x)[..., 3:] * torch.rand_like(gates[..., 3:])).sum().backward()
    assert merge.route.weight.grad.abs().max() < 1e-12
    merge.balance(x).backward()
    assert merge.route.weight.grad.abs().max() > 1e-6


def test_routed_heads_can_be_permuted():
    layer = create("moh", dim=C, heads=H, shared=3, active=2).double()
    x, before = tokens(), layer(tokens())
    order = torch.tensor([0, 1, 2, 6, 3, 7, 5, 4])
    with torch.no_grad():
        for linear in (layer.projection.q, layer.projection.k, layer.projection.v):
            linear.weight.copy_(linear.weight.unflatten(0, (H, -1))[order].flatten(0, 1))
        layer.merge.out.weight.copy_(layer.merge.out.weight.unflatten(1, (H, -1))[:, order].flatten(1))
        layer.merge.route.weight.copy_(layer.merge.route.weight[order[3:] - 3])
    torch.testing.assert_close(layer(x), before, rtol=0, atol=1e-12)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(
    ("shared", "active", "kv_heads", "router"),
    [(4, 2, 8, "learned"), (3, 2, 2, "query_norm"), (0, 3, 4, "learned"), (8, 0, 8, "learned")],
)
def test_gathered_equals_dense(causal, shared, active, kv_heads, router):
    torch.manual_seed(0)
    merge = MoH(C, H, 4, shared=shared, active=active, router=router)
    layer = Attention(C, H, projection=f"gqa:kv_heads={kv_heads}", merge=merge).double().eval()
    x = tokens()
    padding = torch.ones(2, 12, dtype=torch.bool)
    padding[0, :3] = padding[1, 9:] = False
    at = torch.where(padding, padding.cumsum(1) - 1, -1)
    for real, places in ((None, None), (padding, at)):
        call = Call(tokens=x, memory=x, causal=causal, q_positions=places, k_positions=places)
        q, k, v = layer.projection(call)
        got, want = layer.merge.gathered(q, k, v, call.with_(q=q)), layer(x, causal=causal, padding=real)
        keep = slice(None) if real is None else real
        torch.testing.assert_close(got[keep], want[keep], rtol=0, atol=1e-12)


def test_gathered_does_less_work(monkeypatch):
    # The work of this engine is counted whole.
    monkeypatch.setattr("regard.mechanisms.heads.moh.attend", partial(attend, engine="reference"))
    torch.manual_seed(0)
    layer = Attention(C, H, merge=MoH(C, H, 4, shared=2, active=2)).eval()
    x = torch.randn(1, 256, C)
    call = Call(tokens=x, memory=x)
    work = []
    with torch.no_grad():
        q, k, v = layer.projection(call)
        call = call.with_(q=q)
        dense = lambda: layer.merge(attend(q, k, v, engine="reference"), call)  # noqa: E731
        for run in (dense, lambda: layer.merge.gathered(q, k, v, call)):
            with FlopCounterMode(display=False) as counter:
                run()
            work.append(counter.get_total_flops())
        busiest = int((layer.merge.gates(x)[..., 2:] > 0).sum((0, 1)).max())
    rest = 2 * 256 * C * (C + 6 + 2 + 2)
    assert work[0] == 4 * 256 * 256 * C + rest
    # 2 heads of 8 whole, and of the other 6 as many queries as the busiest has; the router is asked twice.
    assert work[1] == 4 * 256 * (2 * 256 + 6 * busiest) * C // H + rest + 2 * 256 * C * 6
    assert work[1] < 0.8 * work[0]


def test_gathered_refuses_edits():
    x = tokens()
    call = Call(tokens=x, memory=x, edits=(ALiBi(torch.ones(H)),), q=queries())
    with pytest.raises(Unsupported, match="can't edit scores. Call the layer"):
        part().gathered(queries(), queries(), queries(), call)


def test_defaults():
    found = {
        heads: (m.shared, m.routed, m.active) for heads in (1, 2, 3, 4, 8, 9, 32) for m in [MoH(heads * 4, heads, 4)]
    }
    assert found == {
        1: (0, 1, 1),
        2: (0, 2, 2),
        3: (0, 3, 2),
        4: (1, 3, 2),
        8: (4, 4, 2),
        9: (4, 5, 2),
        32: (16, 16, 8),
    }


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"shared": 6, "active": 3}, "shared=6 leaves 2 to route, and active=3 are asked for. Type shared=5, active=3"),
        ({"shared": 9}, "shared=9 leaves 0 to route"),
        ({"shared": 8, "active": 1}, "shared=8 leaves 0 to route, and active=1"),
        ({"shared": 0, "active": 0}, "reads no head. Type active=1"),
        ({"shared": -1}, "shared must be at least 0; got -1"),
        ({"active": -1}, "active must be at least 0; got -1"),
        ({"active": 1.5}, "active must be a whole number of heads; got 1.5"),
        ({"shared": True}, "shared must be a whole number of heads; got True"),
        ({"router": "random"}, "router must be one of 'learned', 'query_norm'; got 'random'"),
    ],
)
def test_bad_settings_are_named(settings, text):
    with pytest.raises(ValueError, match=text):
        part(**settings)


def test_query_norms_need_queries():
    with pytest.raises(ValueError, match="reads the queries: give q"):
        part(router="query_norm").gates(tokens())
