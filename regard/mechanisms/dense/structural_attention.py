"""Attention as the marginal probability of latent edges."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.caches import Held
from regard.core import Cost, Limit, Source, Spec
from regard.errors import Unsupported
from regard.mechanisms.call import Call
from regard.mechanisms.mixer import Mixer
from regard.ops.structure import potentials, settings, structural_attention

PRIORS = ("uniform", "geometric", "beta")


class StructuralAttention(Mixer):
    """A query reads the expected value over the edges that it may have, given queries, keys and a prior.

    `family`: the sets of edges: "one" a query (softmax), "one_or_none", "bernoulli" any set (sigmoid), "k_subset"
    exactly `subset`, "assign" one query a key (slots). `potential`: "dot", or "gaussian" of width `width`. `prior`:
    "uniform"; "geometric" over distance, with rate `p`, or where that is None a learned one, a head each; "beta", its
    rate inferred by each query under a Beta(`beta`) hyper-prior. `log_odds` is added to every edge's log prior; it is
    learned, a head each, with `learned_odds`. `inference`: "marginal", "sample", "map"; "em" with `rounds` rounds,
    after which a query reads with the mean of its keys (Hopfield retrieval); or "mean_field", `rounds` rounds of it,
    where edges depend on each other by `coupling`: those of one query in proportion to how alike their "keys" are, or
    those to one key in proportion to how alike their "queries" are, whichever are `coupled`. `value`: "sum";
    "multihop", `hop` times what its keys read besides; "set", the mean of a k_subset. Score edits of a position are
    log priors.

    Self- and cross-attention are the defaults, and masks and graphs priors. Hard attention is inference="map";
    slot attention family="assign"; Hopfield retrieval, and clustering by Gaussians with family="assign", inference=
    "em"; sigmoid attention family="bernoulli"; softmax plus one family="one_or_none", which is softmax times the
    sigmoid of the log evidence: precision as a gate.

    Shapes: q [B, H, N, D]; k [B, G, M, D]; v [B, G, M, E]; result [B, H, N, E].
    Raises: ValueError for an unknown word, a number out of range or what does not go together; Unsupported where
    "assign" or coupled "queries" are asked to be causal, or "multihop" to decode or to look at another sequence.
    Source: "Attention: Marginal Probability is All You Need?", 2304.04556.
    Differs from the paper: it gives the formula and names the special cases; the families' exact sums, the hyper-prior,
    what edges are coupled by and multi-hop values are worked out here. A query that may have fewer edges than `subset`
    has all of them.
    """

    spec: ClassVar[Spec] = Spec(
        id="structural_attention",
        slot="mixer",
        source=Source(
            "Attention: Marginal Probability is All You Need?",
            "2304.04556",
            authors="Singh, Ryan and Buckley, Christopher L.",
        ),
        what="A query reads the expectation of its values under the posterior over latent edges, of which softmax, "
        "sigmoid, hard, slot and Hopfield attention are cases.",
        formula="out = E_{p(edges | q, k)} [value(edges)],  p(edges | q, k) ~ prod over edges of exp(psi_ij) pi_ij\n"
        "one: p_ij = softmax_j(psi_ij + log pi_ij);  bernoulli: sigmoid;  assign: softmax over queries\n"
        "k_subset: p_ij = e^{s_ij} e_{k-1}(all but j) / e_k(all),  e_k elementary symmetric\n"
        "mean_field: s_ij += c sum_{l != j} p_il k_j.k_l, or c sum_{n != i} p_nj q_i.q_n, again and again",
        cross=True,
        scores=True,
        cost=Cost(time=2, state=1),
        limits=(
            Limit("softmax"),
            Limit("softmax", family="k_subset", subset=1),
            Limit("edges_apart", family="bernoulli"),
            Limit("edge_or_none", family="one_or_none"),
            Limit("pairs_of_edges", family="k_subset"),
            Limit("edges_apart", family="bernoulli", inference="mean_field", coupling=0.0),
            Limit("softmax", prior="geometric", p=1e-13),
        ),
        variants=(
            {"family": "bernoulli", "potential": "gaussian", "log_odds": 2.0},
            {"family": "one_or_none", "prior": "geometric"},
            {"family": "k_subset", "value": "set"},
            {"inference": "em", "prior": "beta"},
            {"family": "bernoulli", "inference": "mean_field", "rounds": 2, "coupling": 0.2, "learned_odds": True},
        ),
    )

    def __init__(
        self,
        heads: int,
        *,
        family: str = "one",
        subset: int = 2,
        potential: str = "dot",
        scale: float | None = None,
        width: float = 1.0,
        prior: str = "uniform",
        p: float | None = None,
        beta: tuple[float, float] = (1.0, 8.0),
        log_odds: float = 0.0,
        learned_odds: bool = False,
        inference: str = "marginal",
        rounds: int = 1,
        coupling: float = 1.0,
        coupled: str = "keys",
        value: str = "sum",
        hop: float = 1.0,
    ) -> None:
        super().__init__()
        self.heads, self.family, self.subset, self.potential = heads, family, subset, potential
        self.scale, self.width, self.prior, self.p, self.beta, self.log_odds = scale, width, prior, p, beta, log_odds
        self.inference, self.rounds, self.value, self.hop = inference, rounds, value, hop
        self.coupling, self.coupled = coupling, coupled
        self.one_of("prior", PRIORS)
        settings(
            "StructuralAttention", family=family, subset=subset, potential=potential, width=width,
            inference=inference, rounds=rounds, value=value, beta=self.beta, coupling=coupling, coupled=coupled,
        )  # fmt: skip
        if p is not None and (prior != "geometric" or not 0 < p < 1):
            raise ValueError(
                f"StructuralAttention.p is the rate of a geometric prior, between 0 and 1; got p={p}, prior={prior!r}. "
                "Type prior='geometric' and such a p, or p=None."
            )
        if learned_odds and family not in ("bernoulli", "one_or_none"):
            raise ValueError(
                f"StructuralAttention: family={family!r} always has as many edges, whatever their odds. Type "
                "learned_odds=False, or family='bernoulli' or 'one_or_none'."
            )
        self.odds = nn.Parameter(torch.full((heads,), float(log_odds))) if learned_odds else None
        if prior == "geometric" and p is None:
            self.rate = nn.Parameter(torch.full((heads,), -3.0))  # a window of some twenty tokens to start with

    def mix(self, q: Tensor, k: Tensor, v: Tensor, call: Call) -> Tensor:
        N, M = q.shape[2], k.shape[2]
        if self.family == "assign" and call.causal:
            raise Unsupported(
                "StructuralAttention(family='assign') lets every key choose among all queries, later ones too. Type "
                "causal=False, or another family."
            )
        if self._joint and call.causal:
            raise Unsupported(
                "StructuralAttention(coupled='queries') lets the edges of later queries bear on earlier ones. Type "
                "causal=False, or coupled='keys'."
            )
        if self.value == "multihop" and (call.cross or N != M):
            raise Unsupported(
                "StructuralAttention(value='multihop') follows the edges of its keys, so that it needs every key to be "
                "a query. Attend to the whole sequence itself, or type value='sum'."
            )
        if k.shape[1] != q.shape[1]:
            k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
        i, j = call.q_at(N, M)[:, None, :, None], call.k_at(M)[:, None, None, :]
        gaps, wide = (i - j).abs(), torch.promote_types(q.dtype, torch.float32)
        log_prior = torch.full((1, 1, 1, 1), self.log_odds, dtype=wide, device=q.device)
        if self.odds is not None:
            log_prior = self.odds.to(wide)[None, :, None, None]
        if self.prior == "geometric":
            on, off = self._geometric(wide)
            log_prior = log_prior + gaps * off + on
        return structural_attention(
            q,
            k,
            v,
            potential=lambda q, k: _edited(potentials(q, k, self.potential, self.scale, self.width), i, j, call),
            scale=self.scale,
            log_prior=log_prior,
            seen=call.visible(N, M),
            family=self.family,
            subset=self.subset,
            inference=self.inference,
            rounds=self.rounds,
            coupling=self.coupling,
            coupled=self.coupled,
            value=self.value,
            hop=self.hop,
            distances=gaps if self.prior == "beta" else None,
            beta=self.beta if self.prior == "beta" else None,
            strict=False,  # a query that sees nothing gives zeros
            generator=call.generator,
        ).out

    def init_state(self, batch: int, held: Held) -> Any:
        for name, word in (("family", "assign"), ("value", "multihop")):
            if getattr(self, name) == word:
                raise Unsupported(
                    f"StructuralAttention({name}={word!r}) can't decode step by step: edges of tokens that are past "
                    "would be asked for again. Call it on the whole sequence."
                )
        if self._joint:
            raise Unsupported(
                "StructuralAttention(coupled='queries') can't decode step by step: edges of tokens that are past would "
                "be asked for again. Call it on the whole sequence."
            )
        return held

    @property
    def _joint(self) -> bool:
        """Whether queries do not choose their edges each by itself."""
        return self.inference == "mean_field" and self.coupled == "queries"

    def _geometric(self, kind: torch.dtype) -> tuple[Tensor | float, Tensor | float]:
        """The logarithms of the geometric prior's rate and of what is left, [H, 1, 1] where they are learned."""
        if self.p is not None:
            return math.log(self.p), math.log1p(-self.p)
        rate = self.rate.to(kind)[:, None, None]
        return F.logsigmoid(rate), F.logsigmoid(-rate)


def _edited(scores: Tensor, i: Tensor, j: Tensor, call: Call) -> Tensor:
    """Scores [B, H, N, M] with the call's edits, for queries and keys at positions i and j."""
    B, H, N, M = scores.shape
    b, h, n, m = (torch.arange(size, device=scores.device) for size in (B, H, N, M))
    b, h, n, m = b[:, None, None, None], h[:, None, None], n[:, None], m
    for edit in call.edits:
        edit.check(B, H, N, M)
        scores = edit.at(scores, b, h, *((n, m) if edit.by_slot else (i, j)))
    return scores
