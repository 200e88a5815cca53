"""T5's buckets: against the code that its models were trained with."""

from __future__ import annotations

import pytest
import torch

from regard.edits import Edit
from regard.mechanisms import Call
from regard.mechanisms.positions import T5Bias


def edit(position: T5Bias, causal: bool) -> Edit:
    x = torch.zeros(1, position.table.shape[1], 2, 4)
    (made,) = position.edits(x, x, Call(tokens=x, memory=x, causal=causal))
    return made


def buckets(position: T5Bias, causal: bool, far: torch.Tensor) -> torch.Tensor:
    """The bucket of keys at `far` positions after the query, read from a table of bucket numbers."""
    with torch.no_grad():
        position.table.copy_(torch.arange(position.buckets)[:, None].expand_as(position.table))
    i = torch.full_like(far, 10000)
    return edit(position, causal).bias(far, torch.zeros_like(far), i, i + far).long()


def test_near_distances_have_a_bucket_each_and_far_ones_share():
    back = -torch.arange(0, 400)
    found = buckets(T5Bias(2), True, back)
    assert found[:16].tolist() == list(range(16))
    assert found.diff().min() >= 0
    assert set(found.tolist()) == set(range(32))
    assert found[127:].unique().tolist() == [31]
    assert found[[20, 64, 100]].tolist() == [17, 26, 30]  # 16 + 16 log(d / 16) / log(8)
    both = buckets(T5Bias(2), False, torch.tensor([-3, -1, 0, 1, 3, 300]))
    assert both.tolist() == [3, 1, 0, 17, 19, 31]


def test_every_head_has_its_own_table():
    position = T5Bias(3)
    h = torch.arange(3)
    same = torch.zeros(3, dtype=torch.long)
    assert torch.equal(edit(position, True).bias(same, h, same + 4, same), position.table[4])
    assert [p.shape for p in position.parameters()] == [(32, 3)]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"buckets": 6}, "multiple of 4, at least 4; got 6"),
        ({"max_distance": 16}, "more than half the buckets, 16; got 16"),
    ],
)
def test_settings_out_of_range_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        T5Bias(2, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("count", "most"), [(32, 128), (8, 20), (64, 256)])
def test_buckets_are_those_of_transformers(causal, count, most):
    from transformers.models.t5.modeling_t5 import T5Attention

    far = torch.arange(-600, 1 if causal else 600)
    theirs = T5Attention._relative_position_bucket(far, not causal, count, most)
    assert torch.equal(buckets(T5Bias(1, buckets=count, max_distance=most), causal, far), theirs)
