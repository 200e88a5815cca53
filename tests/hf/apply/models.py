"""Models that several tests of interventions share."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.hf.intervention import Intervention
from tests.hf.apply.families import VOCABULARY, build


def llama(**settings: object) -> nn.Module:
    """Two layers, four query heads in two groups, width 8."""
    return build("llama", **settings)


def prompt(rows: int = 2, length: int = 12, padding: tuple[int, ...] = (), seed: int = 0) -> dict[str, Tensor]:
    """Token ids with so much padding on the left of each row."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    mask = torch.ones_like(ids)
    for row, count in enumerate(padding):
        mask[row, :count] = 0
    return {"input_ids": ids, "attention_mask": mask}


class Record(Intervention):
    """Keeps what attention was given and what came out, for every call."""

    def __init__(self) -> None:
        self.calls: list[dict] = []

    def inputs(self, site, q, k, v):
        self.calls.append({"site": site, "q": q.double(), "k": k.double(), "v": v.double()})

    def heads(self, site, out):
        self.calls[-1]["out"] = out.double()
