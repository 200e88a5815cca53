"""Applying interventions to a pretrained model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.errors import Unsupported
from regard.hf import interface
from regard.hf.intervention import Intervention, overrides
from regard.hf.run import Run
from regard.hf.select import Sites
from regard.hf.site import Site
from regard.hf.sites import bypassing, family, find_sites, unserved_arguments
from regard.ops import Engine


def apply(model: nn.Module, *interventions: Intervention, engine: str | Engine = "auto", meter: bool = True) -> Run:
    """Run a transformers model under interventions: `with regard.apply(model, StreamingLLM(...)) as run: ...`.

    Inside the block every attention of the model goes through `regard.attend`; on leaving it the model is as it was.
    Interventions act in the order given. `engine` serves every call, by name or as an object; `meter=False` counts
    nothing.

    Raises: Unsupported, with every reason, before anything runs, where the model can't be served; RegardError on
    leaving the block where an intervention never acted.
    """
    reasons = check(model, *interventions)
    if reasons:
        raise Unsupported("; ".join(reasons) + ".")
    return Run(model, find_sites(model), interventions, engine=engine, meter=meter)


def check(model: nn.Module, *interventions: Intervention) -> list[str]:
    """Every reason why `apply` would refuse; empty where it would not."""
    if not isinstance(model, nn.Module):
        return [f"apply takes a transformers model; got {type(model).__name__}"]
    for intervention in interventions:
        if not isinstance(intervention, Intervention):
            return [f"apply takes interventions after the model; got {type(intervention).__name__}"]
    sites = find_sites(model)
    if not sites:
        return [f"{family(model)} does not use the attention interface of transformers, so nothing would be changed"]
    reasons = []
    if interface.is_active(model):
        reasons.append(f"this {family(model)} is already under regard.apply; pass all interventions in one call")
    if len(set(map(id, interventions))) < len(interventions):
        reasons.append("an intervention is given twice")
    reasons += unserved_arguments(sites)
    reasons += _bypassed(model, sites, interventions)
    reasons += _chosen(sites, interventions)
    reasons += _caches(model, sites, interventions)
    for intervention in interventions:
        reasons += [f"{intervention.name}: {reason.rstrip('.')}" for reason in intervention.check(model)]
    return reasons


def can_rotate(model: nn.Module) -> list[str]:
    """Reasons why keys of this model can't be turned to other positions (`Site.rotate`); empty where they can.

    Runs the model once, on two tokens.
    """
    if getattr(model, "main_input_name", None) != "input_ids":
        return [f"{family(model)} does not read text, on which rotation is tried"]
    turn = _Turn()
    config = getattr(model, "config", None)
    device = next(model.parameters()).device
    ids = torch.zeros(1, 2, dtype=torch.long, device=device)
    inputs = {"input_ids": ids}
    if getattr(config, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = ids
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), apply(model, turn, meter=False):
            model(**inputs)
    finally:
        model.train(training)
    return turn.reasons


class _Turn(Intervention):
    """Tries to turn one key at every site."""

    sites = Sites(kind="self")

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def inputs(self, site: Site, q: Tensor, k: Tensor, v: Tensor) -> None:
        try:
            site.rotate(k[:, :, :1], torch.ones(1, dtype=torch.long, device=k.device))
        except Unsupported as error:
            self.reasons.append(str(error))


def _bypassed(model: nn.Module, sites: list[Site], interventions: tuple[Intervention, ...]) -> list[str]:
    whole = [i.name for i in interventions if not i.sites.named]
    outside = bypassing(model, sites) if whole else []
    if not outside:
        return []
    shown = ", ".join(outside[:3]) + (f" and {len(outside) - 3} more" if len(outside) > 3 else "")
    return [
        f"in {family(model)}, {shown} compute attention outside the interface; say which sites {', '.join(whole)} is "
        "for with Sites(within=...) or Sites(layers=...)"
    ]


def _chosen(sites: list[Site], interventions: tuple[Intervention, ...]) -> list[str]:
    reasons = []
    for intervention in interventions:
        if not any(intervention.sites.selects(site.name, site.layer) for site in sites):
            layers = sorted({site.layer for site in sites})
            reasons.append(
                f"{intervention.name}: {intervention.sites} selects none of the layers {layers[0]} to {layers[-1]}"
            )
        for site in sites:
            heads = intervention.sites.heads_of(site.layer) or ()
            if site.heads and heads and max(heads) >= site.heads and intervention.sites.selects(site.name, site.layer):
                reasons.append(
                    f"{intervention.name}: sites.heads names head {max(heads)}, but {site.name} has {site.heads} "
                    f"(0 to {site.heads - 1})"
                )
                break
    return reasons


def _caches(model: nn.Module, sites: list[Site], interventions: tuple[Intervention, ...]) -> list[str]:
    holders = [i for i in interventions if overrides(i, "cache")]
    reasons = []
    for site in sites:
        names = [i.name for i in holders if i.sites.selects(site.name, site.layer)]
        if len(names) > 1:
            reasons.append(
                f"{' and '.join(names)} both keep their own keys and values at {site.name}; apply one of them"
            )
            break
    config = getattr(model, "config", None)
    text = config.get_text_config(decoder=True) if config is not None and holders else None
    shared = getattr(text, "num_kv_shared_layers", 0) or "reuse" in (getattr(text, "kv_sharing_modes", None) or ())
    if shared:
        reasons.append(
            f"{family(model)} shares keys and values between layers, so {holders[0].name} can't keep its own"
        )
    return reasons
