"""What the suite can't derive for landmark attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from regard.errors import ShapeError
from regard.mechanisms.memory.landmark_attention import LandmarkAttention, grouped_softmax, insert_landmarks
from regard.ops import attend


def groups(N: int, block: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    at = torch.arange(N)[None]
    size = block + 1
    own, other = (at // size)[:, None, :, None], (at // size)[:, None, None, :]
    return (at % size == block)[:, None, None], torch.ones(N, N).tril().bool()[None, None], own, other, at // size


def weights(scores: Tensor, block: int = 3) -> Tensor:
    landmark, seen, own, other, blocks = groups(scores.shape[-1], block)
    return grouped_softmax(scores, landmark, seen, own, other, blocks)


SCORES = torch.randn(2, 2, 14, 14, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_rows_sum_to_one_and_landmarks_weigh_nothing() -> None:
    found = weights(SCORES)
    torch.testing.assert_close(found.sum(-1)[..., [0, 1, 2, 3, 5, 13]], torch.ones(2, 2, 6, dtype=torch.float64))
    # The first token of a block sees no token of its own block before itself, and every landmark before it.
    torch.testing.assert_close(found.sum(-1), torch.ones(2, 2, 14, dtype=torch.float64))
    assert not found[..., 3::4].any()
    assert not found.triu(1).any()


def test_a_block_whose_landmark_is_hidden_is_hidden() -> None:
    scores = SCORES.clone()
    scores[..., 3] = -1e9
    assert weights(scores)[..., 4:, :3].abs().max() < 1e-30


def test_inside_a_block_other_blocks_change_nothing() -> None:
    other = SCORES.clone()
    other[..., 4:8] += 3
    a, b = weights(SCORES)[..., 9:, :3], weights(other)[..., 9:, :3]
    torch.testing.assert_close(a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True))


def test_one_token_to_a_block_weighs_what_its_landmark_does() -> None:
    landmark, seen, own, other, blocks = groups(8, 1)
    scores = SCORES[..., :8, :8]
    found = grouped_softmax(scores, landmark, seen, own, other, blocks)
    row = scores[0, 0, 6]  # its own block has token 6; landmarks 1, 3 and 5 stand for tokens 0, 2 and 4
    want = torch.stack([row[1], row[3], row[5], row[6]]).softmax(0)
    torch.testing.assert_close(found[0, 0, 6, [0, 2, 4, 6]], want)


def test_without_landmarks_it_is_causal_softmax() -> None:
    layer = LandmarkAttention(16, 2, block=50).double()
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    from regard.masks import causal
    from regard.mechanisms.rotary import frequencies, turned

    q, k, v = (one(x).unflatten(-1, (2, 8)).transpose(1, 2) for one in (layer.q, layer.k, layer.v))
    at, steps = torch.arange(9)[None], frequencies(8, 10000.0, x)
    want = attend(turned(q, at, steps), turned(k, at, steps), v, where=causal()).transpose(1, 2).flatten(2)
    torch.testing.assert_close(layer(x, causal=True), layer.out(want), rtol=0, atol=1e-12)


def test_reading_every_block_is_reading_all() -> None:
    x = torch.randn(1, 14, 16, dtype=torch.float64)
    torch.manual_seed(0)
    whole = LandmarkAttention(16, 2, block=3).double()
    some = LandmarkAttention(16, 2, block=3, top_k=9).double()
    some.load_state_dict(whole.state_dict())
    torch.testing.assert_close(some(x, causal=True), whole(x, causal=True), rtol=0, atol=1e-12)


def test_far_blocks_count_as_one_distance() -> None:
    """With `top_k` no distance depends on how far a block before the latest ones is."""
    torch.manual_seed(0)
    layer = LandmarkAttention(16, 2, block=2, top_k=1).double()
    x = torch.randn(1, 30, 16, dtype=torch.float64)
    first, gap = x[:, :3], x[:, 3:9] * 0 + x[:, 3:4]
    # The block that is read stands in the beginning, further from the last block the more come between.
    loud = first.clone()
    loud[:, 2] = 8 * torch.linalg.lstsq(layer.k.weight, layer.q.weight @ x[0, -1]).solution
    near = layer(torch.cat([loud, gap, x[:, -3:]], 1), causal=True)[:, -3:]
    far = layer(torch.cat([loud, gap, gap, x[:, -3:]], 1), causal=True)[:, -3:]
    torch.testing.assert_close(near[:, 0], far[:, 0])


def test_landmarks_are_put_into_a_text() -> None:
    ids = torch.arange(1, 8)[None]
    assert insert_landmarks(ids, 3, 0).tolist() == [[1, 2, 3, 0, 4, 5, 6, 0, 7]]
    with pytest.raises(ValueError, match="insert_landmarks needs block >= 1; got 0"):
        insert_landmarks(ids, 0, 0)


def test_wrong_input_says_what_to_type() -> None:
    with pytest.raises(ValueError, match=r"LandmarkAttention.block must be at least 1; got 0"):
        LandmarkAttention(16, 2, block=0)
    with pytest.raises(ValueError, match=r"LandmarkAttention.top_k must be at least 1; got 0"):
        LandmarkAttention(16, 2, top_k=0)
    landmark, seen, own, other, blocks = groups(4, 1)
    with pytest.raises(ShapeError, match="every key is a landmark"):
        grouped_softmax(SCORES[..., :4, :4], torch.ones_like(landmark), seen, own, other, blocks)
