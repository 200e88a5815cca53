"""Which engine runs a problem, and why."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from regard.errors import EngineRefused
from regard.ops.engine import Engine
from regard.ops.flex import Flex
from regard.ops.problem import Problem
from regard.ops.reference import Reference
from regard.ops.rows import RowBlocks
from regard.ops.sdpa import Sdpa
from regard.ops.tiles import Tiles

ENGINES: dict[str, Engine] = {engine.name: engine for engine in (Reference(), RowBlocks(), Tiles(), Sdpa(), Flex())}


@dataclass(frozen=True)
class Explanation:
    """Which engine `auto` takes and, for each other engine, why not."""

    engine: str
    why: str
    others: dict[str, list[str]]

    def __str__(self) -> str:
        lines = [f"{self.engine}: {self.why}"]
        lines += [f"not {name}: {'; '.join(reasons)}" for name, reasons in self.others.items()]
        return "\n".join(lines)


def order(problem: Problem) -> list[tuple[str, str]]:
    """Engines from cheapest to dearest for this kind of problem, each with the reason for its place."""
    fused = ("sdpa", "torch's fused kernel runs this mask as it is")
    tiles = ("tiles", "work follows the mask's visible tiles")
    flex = ("flex", "compiled for this mask on the GPU")
    rows = ("rows", "exact, a block of queries at a time")
    last = ("reference", "the definition")
    if problem.q.device.type == "cuda":
        return [fused, flex, tiles, rows, last]
    if problem.where.grain is not None and problem.where.grain[0] < 8:
        # Queries beside each other chose different keys: their tiles are all partial, and planning them costs more.
        return [fused, ("rows", "keys were chosen query by query"), tiles, last]
    # On the CPU flex is slower than tiles wherever measured (`make bench`), and compiles for tens of seconds first.
    return [fused, tiles, rows, last]


def choose(problem: Problem, engine: str | Engine) -> Engine:
    """The engine to run: the one asked for, or with 'auto' the cheapest that has no reason against it.

    Raises: ValueError for an unknown name; EngineRefused where the engine asked for can't run the problem.
    """
    if engine == "auto":
        for name, _ in order(problem):
            if not ENGINES[name].unsupported(problem):
                return ENGINES[name]
        reasons = [f"{name}: {'; '.join(ENGINES[name].unsupported(problem))}" for name, _ in order(problem)]
        raise EngineRefused("auto", reasons)
    if isinstance(engine, str):
        if engine not in ENGINES:
            near = difflib.get_close_matches(engine, ENGINES, 1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"Unknown engine {engine!r}; engines are auto, {', '.join(ENGINES)}.{hint}")
        engine = ENGINES[engine]
    if not isinstance(engine, Engine):
        raise ValueError(f"engine must be a name or an engine such as RowBlocks(64); got {type(engine).__name__}.")
    reasons = engine.unsupported(problem)
    if reasons:
        raise EngineRefused(engine.name, reasons)
    return engine
