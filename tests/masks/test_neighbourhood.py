"""What generalised neighbourhood attention promises of its masks."""

from __future__ import annotations

import math

import pytest
import torch

from regard.masks import causal, chunks, everything, neighbourhood


@pytest.mark.parametrize(
    ("shape", "window", "stride", "dilation"),
    [
        ((11,), (4,), (3,), (2,)),
        ((9, 7), (3, 4), (2, 1), (1, 1)),
        ((9, 8), (3, 2), (3, 2), (2, 3)),
        ((5, 4, 6), (3, 2, 5), (1, 2, 4), (1, 2, 1)),
    ],
)
def test_every_query_has_as_many_keys_as_the_window(shape, window, stride, dilation):
    seen = neighbourhood(shape, window, stride, dilation).dense(math.prod(shape))[0, 0]
    assert seen.sum(-1).eq(math.prod(window)).all()


def test_queries_of_a_stride_group_share_their_keys():
    seen = neighbourhood((12, 12), 6, stride=3).dense(144)[0, 0].view(4, 3, 4, 3, 144)
    assert torch.equal(seen, seen[:, :1, :, :1].expand_as(seen))


def test_blocked_attention():
    assert torch.equal(neighbourhood(12, 4, stride=4).dense(12), chunks(4).dense(12))


def test_whole_windows():
    for stride in (1, 2, 5):
        assert torch.equal(neighbourhood((5, 6), (5, 6), stride).dense(30), everything.dense(30))
    assert torch.equal(neighbourhood(9, 9, causal=True).dense(9), causal().dense(9))
    assert torch.equal(neighbourhood(9, 1).dense(9)[0, 0], torch.eye(9, dtype=torch.bool))


def test_dilation_is_the_same_rule_on_each_class_of_places():
    seen = neighbourhood(11, 3, dilation=2).dense(11)[0, 0]
    for first in (0, 1):
        places = torch.arange(first, 11, 2)
        assert torch.equal(seen[places][:, places], neighbourhood(len(places), 3).dense(len(places))[0, 0])
    assert not seen[0::2, 1::2].any()


def test_moving_by_a_stride_moves_the_window_away_from_borders():
    seen = neighbourhood((20, 20), (5, 4), stride=(2, 4)).dense(400)[0, 0].view(20, 20, 20, 20)
    assert torch.equal(seen[8:10, 8:12, 4:14, 4:16], seen[10:12, 12:16, 6:16, 8:20])


def test_positions_past_the_grid_are_not_seen():
    seen = neighbourhood((2, 3), 2).dense(8)[0, 0]
    assert not seen[6:].any()
    assert not seen[:, 6:].any()
    assert torch.equal(seen[:6, :6], neighbourhood((2, 3), 2).dense(6)[0, 0])


def test_perfectly_block_sparse():
    # Stride = window = tile: every tile that is visited is full.
    plan = neighbourhood((8, 32), (1, 16), stride=(1, 16)).tiles(256, size=16)
    assert plan.status.unique().tolist() == [0, 2]
    assert plan.density() == 16 / 256
