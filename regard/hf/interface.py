"""The functions registered with transformers, and which run each attention module belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from torch import Tensor, nn
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, eager_mask, sdpa_mask

from regard.errors import Unsupported
from regard.hf.allowed import AllowedPairs, allowed_pairs
from regard.hf.call import Own

if TYPE_CHECKING:
    from regard.hf.run import Run

NAME = "regard"
_RUNS: dict[nn.Module, Run] = {}
_OWN: dict[int, str | None] = {}  # the implementation that a config named before, by the config's id


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: object = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **passed_on: object,
) -> tuple[Tensor, Tensor | None]:
    """The attention function registered with transformers.

    Shapes: query [B, H, N, D]; key [B, G, M, D]; value [B, G, M, E]; gives [B, N, H, E] and weights or None.
    """
    run = _RUNS.get(module)
    if run is None:
        raise Unsupported(
            f"This {type(module).__name__} is not part of the model given to regard.apply: it shares its config with "
            "that model, or is a copy made inside the with block. Give each model a config of its own: "
            "model.config = copy.deepcopy(model.config) before it is built."
        )
    if dropout and module.training:
        raise Unsupported(
            "Attention dropout is not served. Call model.eval(), or set the config's attention dropout to 0."
        )
    causal = bool(getattr(module, "is_causal", False) if is_causal is None else is_causal)
    return run.attention(module, query, key, value, attention_mask, Own(scaling, causal, softcap, s_aux, position_bias))


def mask(*, config: object = None, **asked: object) -> AllowedPairs:
    """The mask function registered with transformers."""
    # Eager code adds its mask to the scores, all other code takes a boolean one.
    own = _OWN.get(id(config), "eager")
    return allowed_pairs(**asked, make=eager_mask if own in (None, "eager") else sdpa_mask)  # type: ignore[arg-type]


def is_active(model: nn.Module) -> bool:
    """Whether a run holds any of the model's modules."""
    return any(module in _RUNS for module in model.modules())


@contextmanager
def active(run: Run, modules: Mapping[nn.Module, object]) -> Iterator[None]:
    """Send the modules' calls to a run."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, mask)
    _RUNS.update(dict.fromkeys(modules, run))
    try:
        yield
    finally:
        for module in modules:
            _RUNS.pop(module, None)


@contextmanager
def implementation(configs: list[object]) -> Iterator[None]:
    """Name our functions in each config, and give every one its own implementation back."""
    # The public property writes through to sub-configs, so the attribute behind it is saved and set.
    before = [vars(config).get("_attn_implementation_internal") for config in configs]
    for config, name in zip(configs, before, strict=True):
        config._attn_implementation_internal = NAME  # type: ignore[attr-defined]
        _OWN[id(config)] = name
    try:
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation_internal = name  # type: ignore[attr-defined]
            _OWN.pop(id(config), None)
