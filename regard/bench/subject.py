"""The model under comparison: tokens in, last hidden states and logits out."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from regard.errors import RegardError, Unsupported
from regard.hf import Loaded, load

_CHUNK = 256  # positions whose logits are held at a time


@dataclass(frozen=True, eq=False)
class Subject:
    """A causal language model with its tokenizer."""

    loaded: Loaded

    @staticmethod
    def open(name: str, *, dtype: torch.dtype = torch.float32, device: str | None = None) -> Subject:
        """Load a model by name, path or hub id.

        Raises: CheckpointError where it can't be had; RegardError where it is not a causal language model.
        """
        loaded = load(name, dtype=dtype, device=device)
        model = loaded.model
        head = model.get_output_embeddings()
        accepts = "logits_to_keep" in inspect.signature(model.forward).parameters
        if head is None or not accepts or getattr(model.config, "is_encoder_decoder", False):
            raise RegardError(
                f"{name} is a {type(model).__name__}; regard compare needs a causal language model, "
                "such as smollm2-135m."
            )
        if loaded.processor is None:
            raise RegardError(f"{name} comes without a tokenizer; regard compare needs one beside the weights.")
        return Subject(loaded)

    @property
    def model(self) -> Any:
        return self.loaded.model

    @property
    def device(self) -> torch.device:
        return self.model.device

    @property
    def longest(self) -> int | None:
        """The most tokens that a table of learned positions has room for; None where the model has no such table."""
        names = (name for name, part in self.model.named_modules() if isinstance(part, nn.Embedding))
        learned = any("position" in name or name.endswith("wpe") for name in names)
        return getattr(self.model.config, "max_position_embeddings", None) if learned else None

    def tokens(self, text: str) -> Tensor:
        """The text as token ids [T]."""
        return torch.tensor(self.loaded.processor(text, add_special_tokens=False, verbose=False)["input_ids"])

    @torch.no_grad()
    def read(self, ids: Tensor, past: Any = None) -> tuple[Tensor, Any]:
        """One forward pass over [T], the head for its last token alone: last hidden states [T, C], and the cache."""
        kept: list[Tensor] = []
        # Not base_model: OPT never calls it, only the decoder inside.
        decoder = self.model.get_decoder()
        hook = decoder.register_forward_hook(lambda _m, _i, out: kept.append(out.last_hidden_state))
        try:
            found = self.forward(ids[None].to(self.device), past, logits_to_keep=1)
        finally:
            hook.remove()
        hidden = kept[-1][0]
        own = self.logits(hidden[-1:])
        if not torch.allclose(own, found.logits[0, -1:].float(), rtol=1e-2, atol=1e-2):
            raise Unsupported(
                f"{type(self.model).__name__} computes its logits in a way that regard compare doesn't know; "
                "it needs an output embedding, at most scaled or soft-capped."
            )
        return hidden, cache_of(found)

    def forward(self, ids: Tensor, past: Any = None, logits_to_keep: int = 0) -> Any:
        """The model's own output for token ids [B, T] after what is in the cache."""
        named = "cache" if "cache" in inspect.signature(self.model.forward).parameters else "past_key_values"
        return self.model(input_ids=ids, use_cache=True, logits_to_keep=logits_to_keep, **{named: past})

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Next-token logits [T, V] in float32 of last hidden states [T, C], by the model's own head."""
        found = self.model.get_output_embeddings()(hidden).float()
        config = self.model.config
        found = found * (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
        cap = getattr(config, "final_logit_softcapping", None)
        return found if cap is None else torch.tanh(found / cap) * cap

    def log_probabilities(self, hidden: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Next-token log-probabilities [n, V] of [T, C], a stretch at a time, so that T x V never exists at once."""
        for start in range(0, len(hidden), _CHUNK):
            stretch = slice(start, min(len(hidden), start + _CHUNK))
            yield stretch, self.logits(hidden[stretch]).log_softmax(-1)


def cache_of(output: Any) -> Any:
    """The cache in a model's output, under either of the names that transformers gives it."""
    return output["cache"] if "cache" in output else output["past_key_values"]
