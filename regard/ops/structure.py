"""Attention as an expectation over latent edges: which keys a query is connected to, given what both look like."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.errors import ShapeError

FAMILIES = ("one", "one_or_none", "bernoulli", "k_subset", "assign")
INFERENCES = ("marginal", "sample", "map", "em", "mean_field")
VALUES = ("sum", "multihop", "set")
POTENTIALS = ("dot", "gaussian")
# What may be coupled: choices that the family leaves independent of each other.
COUPLED = {"keys": ("bernoulli", "assign"), "queries": ("one", "one_or_none", "bernoulli", "k_subset")}

Potential = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Structure:
    """What a query reads, how probable its edges are, and how well they explain it.

    Shapes: out [B, H, N, E]; marginals [B, H, N, M], or 0 and 1 where edges were sampled or are the most probable;
    log_evidence [B, H, N], a query each, but for the family "assign" [B, H, M], a key each; -inf where no edge is
    allowed; of "mean_field" they are parts of a sum that bounds that of all choices together from below. `queries`
    [B, H, N, D], as they are after the rounds of "em".
    """

    out: Tensor
    marginals: Tensor
    log_evidence: Tensor
    queries: Tensor


def structural_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    potential: str | Potential = "dot",
    scale: float | None = None,
    width: float = 1.0,
    log_prior: Tensor | None = None,
    seen: Tensor | None = None,
    family: str = "one",
    subset: int = 2,
    inference: str = "marginal",
    rounds: int = 1,
    coupling: float = 0.0,
    coupled: str = "keys",
    value: str = "sum",
    hop: float | Tensor = 1.0,
    distances: Tensor | None = None,
    beta: tuple[float, float] | None = None,
    strict: bool = True,
    generator: torch.Generator | None = None,
) -> Structure:
    """The expected value that each query reads, over the edges it may have.

    Edges have log potentials: "dot", scale * q.k (D ** -0.5 by default); "gaussian", -|q - k|^2 / (2 width^2); or a
    function of queries and keys. `log_prior` is added; where it is -inf, or `seen` is False, there is no edge.
    `family` is which sets of edges there may be: "one" for each query (softmax), "one_or_none", "bernoulli" any set,
    "k_subset" exactly `subset`, and "assign" one query for each key, a query then reading the mean of its keys.
    `inference`: the exact marginals; a "sample" or the "map" set of edges, with straight-through gradients; "em",
    `rounds` times putting for a query the mean of its keys before the marginals are taken; or "mean_field", of edges
    that are not independent: every pair of them at one query adds `coupling` * scale * k_j.k_l to the log potential
    where "keys" are `coupled`, and every pair at one key `coupling` * scale * q_i.q_n where "queries" are; `rounds`
    times all edges are renewed at once, given what is expected of the others (strong couplings may never settle).
    `value`: the "sum" over edges; "multihop", that and `hop` times what the key itself reads; "set", the mean of a
    k_subset.
    With `beta` = (a, b) and `distances`, log_prior gains a geometric prior over distance whose rate has the hyper-prior
    Beta(a, b) and is inferred for each query, in `rounds` rounds of mean field.

    Shapes: q [B, H, N, D]; k [B, H, M, D]; v [B, H, M, E]; log_prior, seen and distances broadcast to [B, H, N, M].
    Raises: ValueError for an unknown word, a number out of range, what does not go together, and, where `strict`, a
    query that is allowed fewer edges than its family needs; ShapeError where sizes do not fit.
    Source: "Attention: Marginal Probability is All You Need?", 2304.04556.
    """
    settings(
        "structural_attention", family=family, subset=subset, potential=potential, width=width, inference=inference,
        rounds=rounds, value=value, beta=beta, coupling=coupling, coupled=coupled,
    )  # fmt: skip
    _fits(q, k, v, value, distances, beta)
    kind = torch.promote_types(v.dtype, torch.float32)
    q, k, wide = q.to(kind), k.to(kind), v.to(kind)
    prior = torch.zeros((), dtype=kind, device=q.device) if log_prior is None else log_prior.to(kind)
    allowed = torch.ones((), dtype=torch.bool, device=q.device) if seen is None else seen
    allowed = (allowed & (prior != -torch.inf)).expand(*q.shape[:3], k.shape[2])
    prior = prior.masked_fill(prior == -torch.inf, 0.0)
    if strict:
        _enough(allowed, family, subset)

    def scores(q: Tensor) -> Tensor:
        made = potential(q, k) if not isinstance(potential, str) else potentials(q, k, potential, scale, width)
        found = made + prior
        if beta is None or distances is None:
            return found
        return _with_rate(found, allowed, family, subset, rounds, distances.to(kind), beta)

    for _ in range(rounds if inference == "em" else 0):
        edges, _ = marginals(scores(q), allowed, family, subset)
        total = edges.sum(-1, keepdim=True)
        q = torch.where(total > 0, edges @ k / torch.where(total > 0, total, 1.0), q)
    found = scores(q)
    edges, evidence = marginals(found, allowed, family, subset)
    if inference == "mean_field":
        strength = coupling * (q.shape[-1] ** -0.5 if scale is None else scale)
        for _ in range(rounds):
            force = strength * _force(q, k, edges, coupled)
            edges, evidence = marginals(found + force, allowed, family, subset)
            spent = edges * (force - strength * _force(q, k, edges, coupled) / 2)
            evidence = evidence - spent.sum(-2 if family == "assign" else -1)
    if inference in ("sample", "map"):
        with torch.no_grad():
            hard = (
                _drawn(found, edges, allowed, family, subset, generator)
                if inference == "sample"
                else _likeliest(found, allowed, family, subset)
            ).to(kind)
        edges = hard + edges - edges.detach()
    out = edges @ wide
    if family == "assign":
        total = edges.sum(-1, keepdim=True)
        out = out / torch.where(total > 0, total, 1.0)
    if value == "set":
        out = out / allowed.sum(-1, keepdim=True).clamp(min=1, max=subset)
    if value == "multihop":
        further = edges @ out
        out = out + (hop.to(kind) if isinstance(hop, Tensor) else hop) * further
    return Structure(out.to(v.dtype), edges, evidence, q)


def potentials(q: Tensor, k: Tensor, potential: str, scale: float | None = None, width: float = 1.0) -> Tensor:
    """Log potentials [B, H, N, M] of queries [B, H, N, D] and keys [B, H, M, D]: "dot" or "gaussian"."""
    cross = q @ k.transpose(-1, -2)
    if potential == "dot":
        return cross * (q.shape[-1] ** -0.5 if scale is None else scale)
    norms = q.square().sum(-1)[..., :, None] + k.square().sum(-1)[..., None, :]
    return (cross - norms / 2) / width**2


def marginals(scores: Tensor, seen: Tensor, family: str, subset: int = 2) -> tuple[Tensor, Tensor]:
    """The probability of each edge and the log of the sum over sets of edges, of which it is the gradient.

    Shapes: scores and boolean `seen` [..., N, M] to [..., N, M] and [..., N], or [..., M] for the family "assign".
    """
    seen = seen & (scores != -torch.inf)
    scores = torch.where(seen, scores, -torch.inf)
    if family == "assign":
        found, evidence = marginals(scores.transpose(-1, -2), seen.transpose(-1, -2), "one")
        return found.transpose(-1, -2), evidence
    if family == "k_subset":
        return _subsets(scores, seen, subset)
    if family == "bernoulli":
        on = torch.nn.functional.softplus(torch.where(seen, scores, 0.0))
        evidence = torch.where(seen, on, 0.0).sum(-1)
        return torch.sigmoid(scores), evidence.masked_fill(~seen.any(-1), -torch.inf)
    evidence = _logsumexp(scores, none=family == "one_or_none")
    safe = evidence.masked_fill(evidence == -torch.inf, 0.0)
    found = (scores - safe[..., None]).exp()
    return found, evidence.masked_fill(~seen.any(-1), -torch.inf)


def _force(q: Tensor, k: Tensor, edges: Tensor, coupled: str) -> Tensor:
    """What each edge gets from the others of its query or of its key, in proportion to how alike they are."""
    if coupled == "queries":
        return q @ (q.mT @ edges) - q.square().sum(-1)[..., :, None] * edges
    return (edges @ k) @ k.mT - edges * k.square().sum(-1)[..., None, :]


def _subsets(scores: Tensor, seen: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Marginals of the sets of exactly `size` keys, or of all where there are fewer.

    Each key is a polynomial 1 + e^s x, in logarithms; the sum over sets is a coefficient of the product of all. The
    products are taken in pairs, up a tree; down it goes, for each node, the product of everything outside.
    """
    count = seen.sum(-1).clamp(max=size)
    M = scores.shape[-1]
    full = 1 << max(M - 1, 0).bit_length()
    leaves = torch.nn.functional.pad(scores, (0, full - M), value=-torch.inf)
    levels = [torch.stack([torch.zeros_like(leaves), leaves], -1)]
    while levels[-1].shape[-2] > 1:
        below = levels[-1]
        levels.append(_product(below[..., ::2, :], below[..., 1::2, :], size))
    evidence = _pick(levels[-1].squeeze(-2), count)
    outside = torch.zeros_like(levels[-1][..., :1])
    for below in reversed(levels[:-1]):
        left = _product(outside, below[..., 1::2, :], size - 1)
        right = _product(outside, below[..., ::2, :], size - 1)
        outside = torch.stack([left, right], -2).flatten(-3, -2)
    others = _pick(outside[..., :M, :], (count - 1).clamp(min=0)[..., None].expand(scores.shape))
    safe = evidence.masked_fill(evidence == -torch.inf, 0.0)[..., None]
    found = torch.where(seen, scores + others - safe, -torch.inf).exp()
    return found, evidence.masked_fill(count == 0, -torch.inf)


def _product(a: Tensor, b: Tensor, degree: int) -> Tensor:
    """The product of two polynomials, coefficients in logarithms, without powers above `degree`."""
    top = min(a.shape[-1] + b.shape[-1] - 2, degree)
    found = []
    for power in range(top + 1):
        low, high = max(0, power - b.shape[-1] + 1), min(power, a.shape[-1] - 1)
        terms = a[..., low : high + 1] + b[..., power - high : power - low + 1].flip(-1)
        found.append(_logsumexp(terms))
    return torch.stack(found, -1)


def _pick(coefficients: Tensor, power: Tensor) -> Tensor:
    """One coefficient of each polynomial; -inf for a power that it does not have."""
    last = coefficients.shape[-1] - 1
    found = coefficients.gather(-1, power.clamp(max=last)[..., None])[..., 0]
    return found.masked_fill(power > last, -torch.inf)


def _logsumexp(x: Tensor, none: bool = False) -> Tensor:
    """Over the last axis, without a NaN in the gradient of a row of -inf; `none` adds a term of 1."""
    top = x.detach().amax(-1, keepdim=True).clamp(min=0.0 if none else -torch.inf)
    top = torch.where(top == -torch.inf, 0.0, top)
    total = (x - top).exp().sum(-1)
    if none:
        total = total + (-top[..., 0]).exp()
    empty = total == 0
    return (torch.where(empty, 1.0, total).log() + top[..., 0]).masked_fill(empty, -torch.inf)


def _with_rate(
    scores: Tensor,
    seen: Tensor,
    family: str,
    subset: int,
    rounds: int,
    distances: Tensor,
    beta: tuple[float, float],
) -> Tensor:
    """Scores with the expected log prior of a geometric law over distance, whose rate each query infers."""

    def expected(a: Tensor, b: Tensor) -> Tensor:
        total = torch.digamma(a + b)
        return scores + distances * (torch.digamma(b) - total) + torch.digamma(a) - total

    none = torch.zeros_like(scores[..., :1])
    found = expected(none + beta[0], none + beta[1])
    for _ in range(rounds):
        edges, _ = marginals(found, seen, family, subset)
        gaps = (edges * distances).sum(-1, keepdim=True)
        found = expected(beta[0] + edges.sum(-1, keepdim=True), beta[1] + gaps)
    return found


def _likeliest(scores: Tensor, seen: Tensor, family: str, subset: int) -> Tensor:
    """The most probable set of edges, as booleans."""
    scores = torch.where(seen, scores, -torch.inf)
    if family == "assign":
        return _likeliest(scores.mT, seen.mT, "one", 1).mT
    if family == "bernoulli":
        return scores > 0
    best = scores.topk(min(subset if family == "k_subset" else 1, scores.shape[-1]), -1)
    chosen = torch.zeros_like(seen).scatter(-1, best.indices, True) & seen
    return chosen & (scores > 0) if family == "one_or_none" else chosen


def _drawn(
    scores: Tensor, edges: Tensor, seen: Tensor, family: str, subset: int, generator: torch.Generator | None
) -> Tensor:
    """One set of edges from the posterior, as booleans."""
    if family == "assign":
        return _drawn(scores.mT, edges.mT, seen.mT, "one", 1, generator).mT

    def uniform(shape: torch.Size) -> Tensor:
        return torch.rand(shape, generator=generator, device=edges.device, dtype=edges.dtype)

    if family == "bernoulli":
        return uniform(edges.shape) < edges
    if family != "k_subset":
        # The first key at which the running sum of probabilities passes a random number; past all of them is none.
        cut = uniform(edges.shape[:-1])[..., None]
        if family == "one":
            cut = cut * edges.cumsum(-1)[..., -1:]  # which is 1 but for rounding
        index = (edges.cumsum(-1) <= cut).sum(-1, keepdim=True)
        slots = torch.arange(edges.shape[-1], device=edges.device)
        return (slots == index) & seen
    # A set of k from the last key to the first: whether each is in it, given how many are still to be found.
    scores = torch.where(seen, scores, -torch.inf)
    left = seen.sum(-1).clamp(max=subset)
    grown = [torch.zeros_like(scores[..., :1])]  # the sums over sets of the first m keys, by their size
    for m in range(scores.shape[-1]):
        one = torch.stack([torch.zeros_like(scores[..., m]), scores[..., m]], -1)
        grown.append(_product(grown[-1], one, subset))
    chosen = torch.zeros_like(seen)
    for m in reversed(range(scores.shape[-1])):
        with_it = _pick(grown[m], (left - 1).clamp(min=0)) + scores[..., m]
        p = torch.where(left > 0, (with_it - _pick(grown[m + 1], left)).exp(), 0.0)
        chosen[..., m] = uniform(p.shape) < p
        left = left - chosen[..., m].to(left.dtype)
    return chosen & seen


def settings(
    name: str,
    *,
    family: str,
    subset: int,
    potential: str | Potential,
    width: float,
    inference: str,
    rounds: int,
    value: str,
    beta: tuple[float, float] | None,
    coupling: float = 0.0,
    coupled: str = "keys",
) -> None:
    """Raise ValueError for a word that is not known, a number out of range, and what does not go together."""
    words = {"family": (family, FAMILIES), "inference": (inference, INFERENCES), "value": (value, VALUES)}
    words["coupled"] = (coupled, tuple(COUPLED))
    if isinstance(potential, str):
        words["potential"] = (potential, POTENTIALS)
    for key, (word, known) in words.items():
        if word not in known:
            raise ValueError(f"{name}: {key} must be one of {', '.join(map(repr, known))}; got {word!r}.")
    for key, number in (("subset", subset), ("rounds", rounds)):
        if number < 1:
            raise ValueError(f"{name}: {key} must be at least 1; got {number}.")
    if not (width > 0 and math.isfinite(width)):
        raise ValueError(f"{name}: width must be greater than 0; got {width}.")
    if not math.isfinite(coupling):
        raise ValueError(f"{name}: coupling must be a finite number; got {coupling}.")
    if inference == "mean_field" and family not in COUPLED[coupled]:
        other = next(word for word in COUPLED if family in COUPLED[word])
        raise ValueError(
            f"{name}: family={family!r} ties edges by itself that coupled={coupled!r} would couple. Type "
            f"coupled={other!r}, or family='bernoulli'."
        )
    if beta is not None and not (len(beta) == 2 and min(beta) > 0):
        raise ValueError(f"{name}: beta must be two numbers greater than 0; got {beta}.")
    if value == "set" and family != "k_subset":
        raise ValueError(f"{name}: value='set' is the mean of a set of known size. Type family='k_subset' with it.")
    if value == "multihop" and family == "assign":
        raise ValueError(f"{name}: value='multihop' follows edges from query to key. Type family='one' with it.")


def _fits(
    q: Tensor, k: Tensor, v: Tensor, value: str, distances: Tensor | None, beta: tuple[float, float] | None
) -> None:
    """Raise ValueError or ShapeError where tensors do not fit each other or the settings."""
    if q.shape[:2] != k.shape[:2] or k.shape[:3] != v.shape[:3] or q.shape[3] != k.shape[3]:
        got = ", ".join(str(list(t.shape)) for t in (q, k, v))
        raise ShapeError(f"structural_attention takes q [B, H, N, D], k [B, H, M, D], v [B, H, M, E]; got {got}.")
    if value == "multihop" and q.shape[2] != k.shape[2]:
        raise ValueError(
            f"structural_attention: value='multihop' needs every key to be a query; got {q.shape[2]} queries and "
            f"{k.shape[2]} keys. Type value='sum'."
        )
    if (beta is None) != (distances is None):
        raise ValueError("structural_attention: beta= and distances= go together; give both or neither.")


def _enough(seen: Tensor, family: str, subset: int) -> None:
    """Raise ValueError where a query, or a key that chooses a query, is allowed fewer edges than it must have."""
    need = {"one": 1, "k_subset": subset, "assign": 1}.get(family, 0)
    counts = seen.sum(-2 if family == "assign" else -1)
    if counts.numel() and int(counts.min()) < need:
        who = "key" if family == "assign" else "query"
        raise ValueError(
            f"structural_attention: family={family!r} needs {need} allowed edges for every {who}, and one has "
            f"{int(counts.min())}. Type family='one_or_none', allow more edges, or strict=False."
        )
