"""Which engine runs a recurrence."""

from __future__ import annotations

from regard.errors import EngineRefused
from regard.ops.recurrence.chunked import Chunked, Parallel
from regard.ops.recurrence.engine import Recurring
from regard.ops.recurrence.problem import Recurrence
from regard.ops.recurrence.reference import Stepwise

RECURRENCES: dict[str, Recurring] = {engine.name: engine for engine in (Stepwise(), Chunked(), Parallel())}
STEPS = 2  # up to so many tokens, as a step of decoding has them, single steps are faster than a chunk


def choose(p: Recurrence, engine: str | Recurring) -> Recurring:
    """The engine asked for, or the fastest that can.

    Raises: ValueError for an engine that does not exist; EngineRefused where the one asked for can't run.
    """
    if engine == "auto":
        return next(RECURRENCES[name] for name, _ in order(p) if not RECURRENCES[name].unsupported(p))
    if isinstance(engine, str):
        if engine not in RECURRENCES:
            raise ValueError(f"There is no engine {engine!r} for recur; engines are auto, {', '.join(RECURRENCES)}.")
        engine = RECURRENCES[engine]
    if reasons := engine.unsupported(p):
        raise EngineRefused(engine.name, reasons)
    return engine


def order(p: Recurrence) -> list[tuple[str, str]]:
    """The engines from fast to slow for this recurrence, and why."""
    few = p.k.shape[2] <= STEPS
    steps = ("reference", f"single steps are fastest for up to {STEPS} tokens")
    chunks = ("chunked", "matrix products over chunks of tokens")
    return [steps, chunks] if few else [chunks, steps]


def explained(p: Recurrence) -> str:
    """The engine that `auto` takes, why, and why not the others."""
    chosen = choose(p, "auto")
    lines = [f"{chosen.name}: {dict(order(p))[chosen.name]}"]
    for name, engine in RECURRENCES.items():
        if name != chosen.name:
            lines.append(f"not {name}: {'; '.join(engine.unsupported(p)) or f'{chosen.name} is faster'}")
    return "\n".join(lines)
