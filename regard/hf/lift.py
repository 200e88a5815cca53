"""A pretrained model's attention layer as a regard layer, with its weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from regard.errors import Unsupported
from regard.layers import Attention
from regard.layers.create import Named, parse

_LLAMA = ("q_proj", "k_proj", "v_proj", "o_proj")
_BERT = ("query", "key", "value")
_ROPE = {"default": "none", "linear": "linear", "yarn": "yarn", "llama3": "llama3"}
# Parts of an attention module that change its output and have no slot here.
_STRANGE = ("q_norm", "k_norm", "sinks", "q_layernorm", "k_layernorm", "distance_embedding", "rotary_fn")


def from_hf(model: nn.Module, layer: int = 0) -> Attention:
    """One attention layer of a Llama- or BERT-family model as an `Attention` with equal output.

    It holds copies of the weights. A Llama-family layer keeps its rotary positions, window and grouped heads; what a
    BERT-family layer does after attention (dropout, the residual, the norm) is not part of it.

    Shapes: hidden states [B, N, C], after the norm that stands before the layer, to [B, N, C].
    Raises: Unsupported, with the reason, where the layer does what the slots can't.
    """
    found = [(name, module) for name, module in model.named_modules() if _family(module)]
    if not found:
        raise Unsupported(
            f"{type(model).__name__} has no attention layer of the Llama or BERT family (q_proj, k_proj, v_proj and "
            "o_proj, or query, key and value)."
        )
    if not -len(found) <= layer < len(found):
        raise Unsupported(f"{type(model).__name__} has {len(found)} such layers; got layer={layer}.")
    name, module = found[layer]
    if strange := [part for part in _STRANGE if getattr(module, part, None) is not None]:
        raise Unsupported(f"{name} of {type(model).__name__} has {', '.join(strange)}, for which there is no slot.")
    config = getattr(module, "config", None) or getattr(model, "config", None)
    if _family(module) == "llama":
        maps = [getattr(module, part) for part in _LLAMA]
    else:
        maps = [*(getattr(module, part) for part in _BERT), _output(model, name)]
    if not all(isinstance(one, nn.Linear) for one in maps):
        kinds = ", ".join(sorted({type(one).__name__ for one in maps} - {"Linear"}))
        raise Unsupported(f"{name} holds its weights in {kinds}; only plain linear maps can be lifted.")
    return _layer(name, module, config, maps)


def _family(module: nn.Module) -> str:
    if all(isinstance(getattr(module, part, None), nn.Module) for part in _LLAMA):
        return "llama"
    if all(isinstance(getattr(module, part, None), nn.Module) for part in _BERT):
        return "bert"
    return ""


def _output(model: nn.Module, name: str) -> Any:
    """The map that follows a BERT-family self-attention: `output.dense` of the module around it."""
    around = model.get_submodule(name.rpartition(".")[0])
    dense = getattr(getattr(around, "output", None), "dense", None)
    if dense is None:
        raise Unsupported(f"{name} is not followed by output.dense, so its output can't be told from what comes after.")
    return dense


def _layer(name: str, module: nn.Module, config: Any, maps: list[nn.Linear]) -> Attention:
    q, k, _, out = maps
    dim, width = q.in_features, _width(module, config)
    heads, kv_heads = q.out_features // width, k.out_features // width
    if width * heads != dim:
        raise Unsupported(f"{name} has {heads} heads of width {width}, which do not make up its width of {dim}.")
    bias = any(one.bias is not None for one in maps[:3])
    lifted = Attention(
        dim,
        heads,
        projection=Named(parse("gqa").kind, {"kv_heads": kv_heads, "bias": bias}),
        position=_position(name, module, config),
        mixer=_mixer(module, config, width),
        merge=Named(parse("concat").kind, {"bias": out.bias is not None}),
    ).to(q.weight.device, q.weight.dtype)
    own = [lifted.projection.q, lifted.projection.k, lifted.projection.v, lifted.merge.out]
    with torch.no_grad():
        for ours, theirs in zip(own, maps, strict=True):
            assert isinstance(ours, nn.Linear)
            ours.weight.copy_(theirs.weight)
            if theirs.bias is not None:
                ours.bias.copy_(theirs.bias)
    return lifted.train(module.training)


def _width(module: nn.Module, config: Any) -> int:
    for part in ("head_dim", "attention_head_size"):
        if isinstance(getattr(module, part, None), int):
            return getattr(module, part)
    return config.hidden_size // config.num_attention_heads


def _mixer(module: nn.Module, config: Any, width: int) -> Named:
    scale = getattr(module, "scaling", None)
    if getattr(module, "attn_logit_softcapping", None):
        raise Unsupported("A layer that caps its scores can't be lifted: there is no slot for it.")
    window = _window(module, config)
    plain = scale is None or abs(scale - width**-0.5) < 1e-6 * width**-0.5
    if window:
        if not plain:
            raise Unsupported(f"A windowed layer with the scale {scale} can't be lifted; only width ** -0.5 can.")
        return Named(parse("sliding_window").kind, {"window": window})
    return Named(parse("softmax").kind, {} if plain else {"scale": scale})


def _window(module: nn.Module, config: Any) -> int | None:
    """How many keys a query of this layer sees; None for all."""
    if hasattr(module, "sliding_window"):
        return getattr(module, "sliding_window", None)
    kinds, number = getattr(config, "layer_types", None), getattr(module, "layer_idx", None)
    if kinds and isinstance(number, int) and kinds[number] != "sliding_attention":
        return None
    return getattr(config, "sliding_window", None)


def _position(name: str, module: nn.Module, config: Any) -> str | Named:
    if _family(module) == "bert":
        kind = getattr(config, "position_embedding_type", "absolute") or "absolute"
        if kind != "absolute":
            raise Unsupported(f"{name} has {kind} positions inside attention; only absolute ones can be lifted.")
        return "none"
    given = getattr(config, "rope_parameters", None)
    if not given or "rope_theta" not in given:
        raise Unsupported(f"{name} has no single set of rotary parameters in its configuration.")
    kind = given.get("rope_type", "default")
    part = given.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1.0
    if kind not in _ROPE or part != 1.0:
        what = f"turns {part:g} of its features" if part != 1.0 else f"is of type {kind!r}"
        raise Unsupported(f"The rotary position of {name} {what}; those that can be lifted are {', '.join(_ROPE)}.")
    settings: dict[str, object] = {"base": float(given["rope_theta"]), "scaling": _ROPE[kind]}
    if kind != "default":
        settings["factor"] = float(given["factor"])
    if kind in ("yarn", "llama3"):
        length = given.get("original_max_position_embeddings") or config.max_position_embeddings
        settings["original_length"] = int(length)
    names = {"yarn": ("beta_fast", "beta_slow", "attention_factor"), "llama3": ("low_freq_factor", "high_freq_factor")}
    settings |= {key: float(given[key]) for key in names.get(kind, ()) if given.get(key) is not None}
    return Named(parse("rope").kind, settings)
