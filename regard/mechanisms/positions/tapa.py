"""Token-aware phase attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from regard.core import Cost, Limit, Source, Spec
from regard.edits import Edit, Given
from regard.errors import ShapeError
from regard.mechanisms.call import Call
from regard.mechanisms.position import Position

Phase = Callable[[Tensor, Tensor], Tensor]


class TAPA(Position):
    """One part of each head scores the content, and the other a phase whose cosine, at this distance, it is times.

    The first share `theta` of the features is the content, the rest the phase. `phase` is "quadratic" in the tokens, or
    "linear", the paper's weaker comparison, or a function of both sides' phase parts, [B, H, N, Dp] and [B, H, M, Dp],
    to phases [B, H, N, M], which are used as they come; a module among them is trained.

    Shapes: scores of queries [B, H, N, D] and keys [B, G, M, D]; theta D a whole number. Memory is O(N M) a head.
    Raises: ValueError where theta is outside (0, 1], theta D is no whole number, alpha <= 0, or the phase is unknown;
    ShapeError where a function gives phases of another shape.
    Source: "Positional Encoding via Token-Aware Phase Attention", 2509.12635, section 4.
    Differs from the paper: where the mixer has a scale of its own, it is not used; the content is scaled by its width.
    """

    spec: ClassVar[Spec] = Spec(
        id="tapa",
        slot="position",
        source=Source(
            "Positional Encoding via Token-Aware Phase Attention",
            "2509.12635",
            "section 4",
            authors="Wang, Yu and Shen, Sheng and Munos, Rémi and Zhan, Hongyuan and Tian, Yuandong",
        ),
        what="A content score times the cosine of a phase that tokens choose and distance spreads.",
        formula="q = (a, p), k = (b, r),  s_ij = a_i b_j / sqrt(Da) cos(2 pi |i - j|^alpha p_i r_j / sqrt(Dp))\n"
        "linear: the phase is (sum p_i + sum r_j) / sqrt(Dp)",
        cross=True,
        scores=True,
        cost=Cost(time=2, state=0),
        limits=(Limit("tapa"), Limit("softmax", theta=1.0)),
        variants=({"phase": "linear"}, {"theta": 0.25, "alpha": 0.2}),
        bfloat16=15.0,  # the cosine takes the rounding of q and k times 2 pi |i - j|^alpha, as an angle
    )

    def __init__(self, *, theta: float = 0.5, alpha: float = 0.1, phase: str | Phase = "quadratic") -> None:
        super().__init__()
        self.theta, self.alpha, self.phase = theta, alpha, phase
        if not callable(phase):
            self.one_of("phase", ("quadratic", "linear"))
        if not 0 < theta <= 1:
            raise ValueError(f"TAPA.theta is the share of content, above 0 and up to 1; got {theta}. Type theta=0.5.")
        if not alpha > 0:
            raise ValueError(f"TAPA.alpha must be above 0; got {alpha}. Type alpha=0.1.")

    def edits(self, q: Tensor, k: Tensor, call: Call) -> tuple[Edit, ...]:
        wide = torch.promote_types(q.dtype, torch.float32)
        cut = round(self.theta * q.shape[-1])
        k = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        (qa, qp), (ka, kp) = ((x[..., :cut].to(wide), x[..., cut:].to(wide)) for x in (q, k))
        scores = qa @ ka.mT / math.sqrt(cut)
        if cut < q.shape[-1]:
            phase = self._phase(qp, kp)
            i, j = call.q_at(q.shape[2], k.shape[2]), call.k_at(k.shape[2])
            far = (i[:, None, :, None] - j[:, None, None, :]).abs().to(wide) ** self.alpha
            scores = scores * torch.cos(2 * math.pi * far * phase)
        return (Given(scores),)

    def _phase(self, q: Tensor, k: Tensor) -> Tensor:
        if callable(self.phase):
            phase = self.phase(q, k)
            if phase.shape != (want := (*q.shape[:3], k.shape[2])):
                raise ShapeError(f"TAPA.phase must give phases {list(want)}; got {list(phase.shape)}.")
            return phase
        both = q @ k.mT if self.phase == "quadratic" else q.sum(-1)[..., None] + k.sum(-1)[..., None, :]
        return both / math.sqrt(q.shape[-1])

    def width(self, head_dim: int) -> None:
        content = self.theta * head_dim
        if abs(content - round(content)) > 1e-9 or round(content) < 1:
            raise ValueError(
                f"TAPA.theta={self.theta} of heads of width {head_dim} is {content:g} features, and must be a whole "
                f"number, at least 1. Type theta={max(1, round(content)) / head_dim:g}."
            )
