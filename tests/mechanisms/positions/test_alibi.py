"""ALiBi as a position: the slopes of any number of heads."""

from __future__ import annotations

import pytest
import torch

from regard.errors import Unsupported
from regard.layers import Attention
from regard.mechanisms import Call, Mixer
from regard.mechanisms.dense import Softmax
from regard.mechanisms.positions import ALiBi


def slopes(heads: int) -> list[float]:
    x = torch.zeros(1, heads, 2, 4, dtype=torch.float64)
    (edit,) = ALiBi(heads).edits(x, x, Call(tokens=x, memory=x))
    h = torch.arange(heads).view(1, -1, 1, 1)
    one, none = torch.ones(1, 1, 1, 1, dtype=torch.long), torch.zeros(1, 1, 1, 1, dtype=torch.long)
    return (-edit.at(torch.zeros(1, heads, 1, 1, dtype=torch.float64), none, h, one, none)).flatten().tolist()


def test_slopes_are_the_papers_and_its_codes():
    assert slopes(8) == [2.0**-n for n in range(1, 9)]
    assert slopes(3) == pytest.approx([2**-4, 2**-8, 2**-2])  # those of 2 heads, then every other of 4
    # 12 heads: those of 8, then the first, third, fifth and seventh of 16.
    assert slopes(12) == pytest.approx([2.0**-n for n in range(1, 9)] + [2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5])


def test_a_mixer_without_scores_is_refused_with_another_position():
    class Mean(Mixer):
        """A mixer without scores."""

        spec = Softmax.spec.__class__(**{**vars(Softmax.spec), "id": "mean", "scores": False})

    with pytest.raises(Unsupported, match="ALiBi edits scores and Mean has none.*position='rope'"):
        Attention(8, 2, position="alibi", mixer=Mean())
