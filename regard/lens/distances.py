"""What heads look at and how alike they are: distance, entropy, and a correlation of what they give out."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.errors import ShapeError


def attention_distance(weights: Tensor, positions: Tensor | None = None, keys: Tensor | None = None) -> Tensor:
    """How far a head looks on average: the mean over queries of the distances to their keys, by their weights.

    Shapes: weights [..., N, M], rows that sum to 1; positions [N] and keys [M] numbers, such as the time of a patch
    alone, by default queries and keys counted from 0; result [...].
    Raises: ShapeError where positions do not fit.
    Source: "Masked Autoencoders with Multi-Window Local-Global Attention", 2306.00561, section 5.
    """
    N, M = weights.shape[-2:]
    i = torch.arange(N, device=weights.device) if positions is None else positions
    j = i if keys is None and N == M else torch.arange(M, device=weights.device) if keys is None else keys
    if i.shape != (N,) or j.shape != (M,):
        raise ShapeError(f"Positions must be [{N}] and [{M}] as the weights; got {list(i.shape)} and {list(j.shape)}.")
    return (weights * (i[:, None] - j).abs()).sum(-1).mean(-1)


def attention_entropy(weights: Tensor) -> Tensor:
    """How evenly a head looks on average, in nats: the mean over queries of the entropy of their weights.

    Shapes: weights [..., N, M], rows that sum to 1, to [...].
    """
    return -torch.special.xlogy(weights, weights).sum(-1).mean(-1)


def pwcca(x: Tensor, y: Tensor) -> Tensor:
    """How alike two sets of features are, from 0 to 1: their canonical correlations, by what each tells of x.

    An invertible map of y changes nothing; one of x changes the weights alone.

    Shapes: x [S, D] and y [S, E], S samples of each, S > D and E; result a scalar.
    Raises: ShapeError where samples are too few or not the same.
    Source: "Insights on representational similarity in neural networks with canonical correlation", 1806.05759.
    """
    if x.dim() != 2 or y.dim() != 2 or len(x) != len(y) or len(x) <= max(x.shape[1], y.shape[1]):
        raise ShapeError(
            f"pwcca takes x [S, D] and y [S, E] with more samples than features; got {list(x.shape)} and "
            f"{list(y.shape)}."
        )
    x, y = (z.double() - z.double().mean(0) for z in (x, y))
    of_x, of_y = _basis(x), _basis(y)
    turn, found, _ = torch.linalg.svd(of_x.T @ of_y, full_matrices=False)
    weights = ((of_x @ turn).T @ x).abs().sum(1)
    return (weights * found.clamp(0, 1)).sum() / weights.sum()


def _basis(x: Tensor) -> Tensor:
    """An orthonormal basis of the columns' span."""
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    return u[:, s > s[0] * len(x) * torch.finfo(x.dtype).eps]
