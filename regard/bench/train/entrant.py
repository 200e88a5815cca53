"""What is trained: the shared backbone around one mechanism."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch

from regard.backbones import DecoderLM, stack
from regard.bench.tasks import Task
from regard.bench.train.settings import Settings, data_seed
from regard.errors import RegardError
from regard.layers import Attention
from regard.layers.attention import SLOTS
from regard.layers.create import Named, build, parse
from regard.mechanisms import Layer
from regard.mechanisms.walk import mechanisms

Maker = Callable[[int, int], Layer]  # dim and heads
DEFAULT = ("softmax", "sliding_window:window=8")


@dataclass(frozen=True)
class Entrant:
    """A mechanism as it was typed, and what makes a layer of it; `others` take turns with it, layer by layer."""

    label: str
    layer: Maker
    others: tuple[Maker, ...] = ()

    def model(self, task: Task, settings: Settings, seed: int) -> DecoderLM:
        """The backbone with this mechanism; what is not attention starts alike for every mechanism.

        Raises: ShapeError, ValueError, RegardError where the mechanism can't be made of these sizes.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            makers = [partial(make, settings.dim, settings.heads) for make in (self.layer, *self.others)]
            layers = stack(settings.layers, *makers)
            start = torch.Generator().manual_seed(seed)
            return DecoderLM(task.vocabulary, settings.dim, layers, generator=start)


def entrants(texts: Iterable[str], position: str | None = None) -> list[Entrant]:
    """The mechanisms to train, each once; a text may name several, separated by commas.

    `softmax/mechanism` is a hybrid: the names take turns, the first in layer 0.

    `position` goes with those that are neither a position nor a whole layer, by default rope.

    Raises: RegardError for an unknown mechanism or one that makes no attention layer.
    """
    position = usual() if position is None else position
    if parse(position).kind.spec.slot != "position":
        slot = parse(position).kind.spec.slot
        raise RegardError(f"--position {position} is a {slot}; type one of {', '.join(mechanisms(slot='position'))}.")
    found: dict[str, Entrant] = {}
    for text in texts:
        for name in split(text):
            if name not in found:
                first, *others = (_maker(part, position) for part in name.split("/"))
                found[name] = Entrant(name, first, tuple(others))
    if not found:
        raise RegardError("No mechanism was named; type --mechanisms softmax, or leave the option out.")
    return list(found.values())


def split(text: str) -> list[str]:
    """`a,b:x=1,y=2,c` as `a`, `b:x=1,y=2` and `c`: a piece with no name before its = belongs to the one before."""
    found: list[str] = []
    for piece in (part.strip() for part in text.split(",")):
        if not piece:
            continue
        setting = "=" in piece and ":" not in piece.partition("=")[0]
        if setting and found and ":" in found[-1]:
            found[-1] += f",{piece}"
        else:
            found.append(piece)
    return found


def rehearse(entrant: Entrant, task: Task, settings: Settings) -> int:
    """Train on one sequence for one step and forget it, so that what can't be trained is refused before the rest is.

    Returns how many parameters the model has.

    Raises: RegardError, with the mechanism's own reason.
    """
    ids, _ = task.batch(torch.Generator().manual_seed(data_seed(0, 0)), 1, settings.length)
    try:
        model = entrant.model(task, settings, 0)
        model(ids, generator=torch.Generator().manual_seed(0)).sum().backward()
    except (RegardError, ValueError) as error:
        raise RegardError(f"{entrant.label} can't be trained here: {error}") from error
    return sum(p.numel() for p in model.parameters())


def usual() -> str:
    """The position that goes with a mechanism where none was asked for."""
    return "rope" if "rope" in mechanisms() else "none"


def _maker(text: str, position: str) -> Maker:
    named = parse(text)
    slot = named.kind.spec.slot
    if slot not in (*SLOTS, "layer"):
        raise RegardError(f"{text!r} is a {slot} and no attention layer, so it can't be trained in this backbone.")

    def layer(dim: int, heads: int) -> Layer:
        if slot == "layer":
            made = build(named.kind, named.settings, {"dim": dim, "heads": heads})
            assert isinstance(made, Layer)
            return made
        fill: dict[str, Named] = {slot: named}
        fill.setdefault("position", parse(position))
        return Attention(dim, heads, **fill)  # type: ignore[arg-type]

    return layer
