"""Turning keys and queries to other positions with a model's own rotary embedding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from regard.errors import Unsupported
from regard.hf.passed import Passed, argument_names

_PROBE = (5, 12)  # two positions whose queries and keys must be turned into each other


class Caught(BaseException):
    """A probe's queries and keys, thrown through the model's code."""

    def __init__(self, q: Tensor, k: Tensor) -> None:
        self.q, self.k = q, k


@dataclass(frozen=True)
class Turn:
    """How a model lays out its rotation: which of the D channels, which of them are paired, how angles are listed."""

    start: int
    width: int
    interleaved: bool
    angles: str  # "first": listed twice, one after another; "even": each twice in a row; "all": once

    def __call__(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """x [B, H, N, D] turned by angles [B|1, 1, N, c], in at least float32."""
        if not self.width:
            return x
        if self.angles != "all":
            half = slice(0, cos.shape[-1] // 2) if self.angles == "first" else slice(0, None, 2)
            cos, sin = cos[..., half], sin[..., half]
        wide = torch.promote_types(x.dtype, torch.float32)
        part = x[..., self.start : self.start + self.width].to(wide)
        a, b = (part[..., ::2], part[..., 1::2]) if self.interleaved else part.chunk(2, -1)
        turned = (a * cos - b * sin, b * cos + a * sin)
        both = torch.stack(turned, -1).flatten(-2) if self.interleaved else torch.cat(turned, -1)
        pieces = (x[..., : self.start], both.to(x.dtype), x[..., self.start + self.width :])
        return torch.cat(pieces, -1)


@dataclass(frozen=True)
class Heard:
    """One call of a rotary module, with its arguments by name but for the tensor that only tells dtype and device."""

    module: nn.Module
    arguments: dict[str, object]

    def angles(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine [B|1, 1, N, c] of positions [B|1, N], with the model's scale divided out."""
        cos, sin = self.at(positions, torch.zeros(1, dtype=torch.float32, device=positions.device))
        # YaRN multiplies both by one number, which must not be applied twice.
        scale = (cos[..., :1] ** 2 + sin[..., :1] ** 2).sqrt()
        return (cos / scale).unsqueeze(1), (sin / scale).unsqueeze(1)

    def at(self, positions: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """What the module gives for positions [B|1, N], in the dtype of a tensor."""
        first = argument_names(type(self.module))[0]
        return self.module.forward(**{**self.arguments, first: like, "position_ids": positions})


class Rope:
    """What a run hears of rotary embeddings, and the turn found for each site."""

    def __init__(self, model: nn.Module) -> None:
        self.modules = [m for m in model.modules() if "Rotary" in type(m).__name__]
        self.heard: dict[int, Heard] = {}  # by the id of the cosines, within one forward pass
        self.last: dict[nn.Module, Heard] = {}
        self.turns: dict[int, Turn] = {}
        self.probing = False  # the next queries and keys that reach attention are thrown as Caught

    def hear(self, module: nn.Module, args: tuple, kwargs: dict, result: object) -> None:
        """A forward hook of every rotary module."""
        names = argument_names(type(module))
        given = dict(zip(names, args, strict=False)) | kwargs
        given.pop(names[0], None)
        self.last[module] = found = Heard(module, given)
        if isinstance(result, tuple) and result and isinstance(result[0], Tensor):
            self.heard[id(result[0])] = found

    def rotation(self, index: int, name: str, module: nn.Module, given: Passed) -> Callable[[Tensor, Tensor], Tensor]:
        """The function behind `Site.rotate`; the turn is looked for when it is first used."""

        def rotate(x: Tensor, delta: Tensor) -> Tensor:
            if delta.dtype.is_floating_point or delta.dtype == torch.bool:
                raise ValueError(f"delta must be integers, in tokens; got {delta.dtype}.")
            heard = self._source(name, given)
            if index not in self.turns:
                self.turns[index] = self._find(name, module, given, heard)
            cos, sin = heard.angles(delta[None] if delta.dim() == 1 else delta)
            return self.turns[index](x, cos, sin)

        return rotate

    def _source(self, name: str, given: Passed) -> Heard:
        embedding = given.rotary
        if given.kind == "cross" or embedding is None:
            raise Unsupported(f"{name} is given no rotary embedding: its keys can't be turned to other positions.")
        if not (isinstance(embedding, tuple) and len(embedding) == 2 and isinstance(embedding[0], Tensor)):
            raise Unsupported(f"{name}: its rotary embedding is not a pair (cos, sin), so its keys can't be turned.")
        heard = self.heard.get(id(embedding[0]))
        if heard is None and len(self.last) == 1:
            heard = next(iter(self.last.values()))
        if heard is None:
            raise Unsupported(f"{name}: which module made its rotary embedding is not clear.")
        positions = heard.arguments.get("position_ids")
        if not isinstance(positions, Tensor) or positions.dim() > 2:
            raise Unsupported(f"{name}: its rotary embedding has positions on several axes.")
        kind = getattr(heard.module, "rope_type", "default")
        if isinstance(kind, dict):
            kind = kind.get(heard.arguments.get("layer_type"), "default")
        if "dynamic" in str(kind) or kind == "longrope":
            raise Unsupported(
                f"{name}: rotary type {kind!r} changes with the length of the text, so turns don't add up."
            )
        return heard

    def _find(self, name: str, module: nn.Module, given: Passed, heard: Heard) -> Turn:
        """The turn that carries the module's own queries and keys from one position to another.

        Raises: Unsupported where none does.
        """
        (q0, k0), (q1, k1) = (self._probed(name, module, given, heard, position) for position in _PROBE)
        if torch.equal(k0, k1):
            return Turn(0, 0, False, "all")  # a layer that ignores positions: its keys are right at every one
        cos, sin = heard.angles(torch.tensor([[_PROBE[1] - _PROBE[0]]], device=k0.device))

        def error(turn: Turn) -> float:
            return max(float((turn(a, cos, sin) - b).abs().max()) for a, b in ((q0, q1), (k0, k1)))

        best = min(_candidates(cos.shape[-1], k0.shape[-1]), key=error, default=None)
        # Angles are computed in float32, whatever the model's dtype.
        close = max(8 * torch.finfo(k0.dtype).eps, 1e-5) * max(float(k0.abs().max()), float(q0.abs().max()))
        if best is None or error(best) > close:
            raise Unsupported(f"{name}: its rotary embedding is of a kind that regard can't turn.")
        return best

    @torch.no_grad()
    def _probed(
        self, name: str, module: nn.Module, given: Passed, heard: Heard, position: int
    ) -> tuple[Tensor, Tensor]:
        """Queries and keys of one token as the module makes them at a position."""
        assert given.hidden is not None
        token = given.hidden[:1, :1]
        embedding = heard.at(torch.tensor([[position]], device=token.device), token)
        plain = {key: value for key, value in given.arguments.items() if isinstance(value, bool | int | float | str)}
        absent = {key: None for key in ("attention_mask",) if key in given.arguments}
        tensors = {argument_names(type(module))[0]: token, "position_embeddings": embedding}
        self.probing = True
        try:
            module.forward(**plain, **absent, **tensors)
        except Caught as caught:
            return caught.q, caught.k
        finally:
            self.probing = False
        raise Unsupported(f"{name} did not reach its attention when its rotary embedding was tried.")


def _candidates(c: int, D: int) -> list[Turn]:
    found = []
    for angles, width in (("first", c), ("even", c), ("all", 2 * c)):
        if width <= D and width % 2 == 0:
            for start in dict.fromkeys((0, D - width)):
                found += [Turn(start, width, interleaved, angles) for interleaved in (False, True)]
    return found
