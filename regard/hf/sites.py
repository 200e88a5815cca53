"""Which modules of a model compute attention through the interface, found from their code before anything runs."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from functools import cache
from types import CodeType

from torch import nn
from transformers import PreTrainedModel

from regard.hf.site import Site

_INTERFACE = frozenset({"ALL_ATTENTION_FUNCTIONS"})
_SOFTMAX = frozenset({"softmax", "scaled_dot_product_attention"})
# Arguments of a model's own eager attention that the registered function serves, or that have no bearing on the result.
_SERVED = {
    "module", "query", "key", "value", "query_states", "key_states", "value_states", "attention_mask", "scaling",
    "dropout", "is_causal", "softcap", "s_aux", "position_bias", "sliding_window", "position_ids", "deterministic",
    "output_attentions", "use_cache",
}  # fmt: skip


def find_sites(model: nn.Module) -> list[Site]:
    """Every module that calls the attention interface, in the order of the model's modules."""
    found = [(name, module) for name, module in model.named_modules() if _mentions(type(module), _INTERFACE)]
    return [_site(index, name, module) for index, (name, module) in enumerate(found)]


def bypassing(model: nn.Module, sites: list[Site]) -> list[str]:
    """Paths of modules that compute softmax attention of their own, outside the interface."""
    served = [site.name for site in sites]
    found: list[str] = []
    for name, module in model.named_modules():
        if any(name == s or s.startswith(f"{name}.") or name.startswith(f"{s}.") for s in served) or not name:
            continue
        if any(name.startswith(f"{outer}.") for outer in found):
            continue
        own = "Attention" in type(module).__name__ and any(_mentions(type(m), _SOFTMAX) for m in module.modules())
        if own or isinstance(module, nn.MultiheadAttention):
            found.append(name)
    return found


def unserved_arguments(sites: list[Site]) -> list[str]:
    """Reasons why a model's own eager attention does more than the registered function knows of."""
    reasons = []
    for kind in {type(site.module) for site in sites}:
        eager = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if eager is None:
            continue
        taken = [p.name for p in inspect.signature(eager).parameters.values() if p.kind is not p.VAR_KEYWORD]
        strange = [name for name in taken if name not in _SERVED]
        if strange:
            reasons.append(f"{kind.__name__}'s attention takes {', '.join(strange)}, which regard does not serve")
    return sorted(reasons)


def family(model: nn.Module) -> str:
    """What a model calls its kind."""
    config = getattr(model, "config", None)
    return getattr(config, "model_type", None) or type(model).__name__


def configs(model: nn.Module, sites: list[Site]) -> list[object]:
    """Every config object that a site's module, or a module around it, reads its attention implementation from."""
    wanted = [site.name for site in sites]
    found: dict[int, object] = {}
    for name, module in model.named_modules():
        config = getattr(module, "config", None)
        if hasattr(config, "_attn_implementation") and any(not name or f"{w}.".startswith(f"{name}.") for w in wanted):
            found[id(config)] = config
    return list(found.values())


def _site(index: int, name: str, module: nn.Module) -> Site:
    config = getattr(module, "config", None)
    heads = _number(module, config, "num_heads", "num_attention_heads", "n_heads", "n_head", "n_heads_q")
    per_group = _number(module, None, "num_key_value_groups")
    groups = (
        _number(module, config, "num_key_value_heads") if per_group is None or heads is None else heads // per_group
    )
    return Site(
        index=index,
        name=name,
        module=module,
        layer=_layer(name, module),
        kind="cross" if _is_cross(module, name) else "self",
        heads=heads,
        groups=groups or heads,
        width=_number(module, config, "head_dim"),
    )


def _is_cross(module: nn.Module, name: str) -> bool:
    last = name.rsplit(".", 1)[-1].lower()
    told = "CrossAttention" in type(module).__name__ or "cross" in last
    return told or last in ("encoder_attn", "encdecattention") or bool(getattr(module, "is_cross_attention", False))


def _layer(name: str, module: nn.Module) -> int:
    for attribute in ("layer_idx", "layer_index", "layer_id"):
        number = getattr(module, attribute, None)
        if isinstance(number, int):
            return number
    numbers = [int(part) for part in name.split(".") if part.isdigit()]
    return numbers[0] if numbers else 0


def _number(module: nn.Module, config: object, *names: str) -> int | None:
    for holder in (module, config):
        for name in names:
            value = getattr(holder, name, None)
            if isinstance(value, int) and not isinstance(value, bool) and value > 0:
                return value
    return None


@cache
def _mentions(kind: type, names: frozenset[str]) -> bool:
    """Whether any method of a module's class, up to torch's own, refers to one of these names."""
    if issubclass(kind, PreTrainedModel):
        return False
    for base in kind.__mro__:
        if base.__module__.startswith("torch."):
            break
        for member in vars(base).values():
            code = getattr(inspect.unwrap(member), "__code__", None) if callable(member) else None
            if code is not None and any(names & set(inner.co_names) for inner in _codes(code)):
                return True
    return False


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
