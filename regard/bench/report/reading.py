"""What a result says: figures that may be missing, short names that are unique, and one look for each method."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from regard.bench.report.format import clean, tokens

Result = Mapping[str, Any]
Row = Mapping[str, Any]

BASELINE = "dense"

# Dark on light paper; the page's style sheet turns exactly these three round on its dark ground.
INK, MUTED, GRID = "#1a1f26", "#5a6472", "#dfe3e8"

# At least 3:1 against white, and apart from each other as seen with protanopia and deuteranopia. Shapes and dashes say
# the same once more, for print without colour.
COLOURS = ("#0a699f", "#d55e00", "#009379", "#d957c8", "#7a4ddb", "#b08246", "#2e6e73", "#a8332d")
# The same in the same order, lighter, for the page's dark ground.
LIGHTER = ("#529dd5", "#ff9a4e", "#7ecbad", "#f5abe6", "#985ef5", "#e09d68", "#229697", "#b67471")
SHAPES = ("square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "triangle-left")
DASHES = ((1, 0), (7, 3), (2, 2), (9, 3, 2, 3), (4, 2))


@dataclass(frozen=True)
class Style:
    """How one method is drawn in every chart."""

    colour: str
    shape: str
    dash: tuple[int, ...]


def number(value: object) -> float | None:
    """The figure, or None where it was not measured or is not finite."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        return None
    return value


def figure(row: Row, key: str) -> float | None:
    """One figure of a row, or None."""
    return number(row.get(key))


def relative(row: Row, key: str) -> float | None:
    """One figure of a row as a multiple of what dense takes, or None."""
    return number((row.get("relative") or {}).get(key))


def interval(row: Row) -> tuple[float, float] | None:
    """The interval of a row's perplexity, or None."""
    ends = [number(end) for end in row.get("perplexity_interval") or ()]
    return (ends[0], ends[1]) if len(ends) == 2 and ends[0] is not None and ends[1] is not None else None


def rows(result: Result) -> Sequence[Row]:
    """The rows of the result, in its own order."""
    return result.get("rows") or ()


def streams(result: Result) -> Sequence[Row]:
    """The streams of the result, in its own order; none where none was asked for."""
    return result.get("stream") or ()


def is_dense(row: Row) -> bool:
    """Whether this is the row that the others are measured against."""
    return row.get("method") == BASELINE


def dense(result: Result) -> Row | None:
    """The row that the others are measured against, or None."""
    return next((row for row in rows(result) if is_dense(row)), None)


def method(row: Row) -> str:
    """A row's method alone, for where its settings stand beside it."""
    return clean(row.get("method") or row.get("label") or "unnamed")


def settings(row: Row) -> str:
    """A row's settings as they are typed, with spaces between."""
    return " ".join(f"{clean(key)}={clean(value)}" for key, value in (row.get("settings") or {}).items())


def names(result: Result) -> list[str]:
    """A short name for each row: the method, and the settings that tell it from others of the same method."""
    return _names([*rows(result)])


def stream_names(result: Result) -> list[str]:
    """A short name for each stream, the row's own where the labels agree."""
    # Reversed, so that the first of two rows with one label gives the name.
    known = dict(reversed([*zip(map(_label, rows(result)), names(result), strict=True)]))
    return [known.get(_label(row)) or name for row, name in zip(streams(result), _stream_only(result), strict=True)]


def styles(result: Result) -> dict[str, Style]:
    """The look of each name, given out in the result's order, so that all charts of a result agree."""
    found: dict[str, Style] = {}
    members = zip([*names(result), *stream_names(result)], [*rows(result), *streams(result)], strict=True)
    others = 0
    for name, row in members:
        if name in found:
            continue
        if is_dense(row):
            found[name] = Style(INK, "circle", DASHES[0])
        else:
            found[name] = Style(
                COLOURS[others % len(COLOURS)], SHAPES[others % len(SHAPES)], DASHES[others % len(DASHES)]
            )
            others += 1
    return found


def context(result: Result) -> float | None:
    """The number of tokens that were read at once."""
    asked = number((result.get("settings") or {}).get("context"))
    return asked if asked is not None else number((result.get("text") or {}).get("tokens"))


def heading(result: Result) -> str:
    """What was compared on what, in one line."""
    model, text, machine = (result.get(part) or {} for part in ("model", "text", "machine"))
    said = [f"{clean(model.get('name', 'a model'))} on {clean(text.get('name', 'a text'))}"]
    length, threads = context(result), number(machine.get("threads"))
    if length is not None:
        said.append(f"{tokens(length)} tokens")
    if model.get("dtype"):
        said.append(clean(model["dtype"]).removeprefix("torch."))
    if threads is not None:
        said.append(f"{threads:.0f} thread{'' if threads == 1 else 's'}")
    return ", ".join(said)


def _label(row: Row) -> str:
    return str(row.get("label") or f"{row.get('method')}:{settings(row)}")


def _stream_only(result: Result) -> list[str]:
    known = set(map(_label, rows(result)))
    alone = [row for row in streams(result) if _label(row) not in known]
    given = iter(_names([*rows(result), *alone])[len(rows(result)) :])
    return ["" if _label(row) in known else next(given) for row in streams(result)]


def _names(members: list[Row]) -> list[str]:
    methods = Counter(row.get("method") for row in members)
    found: list[str] = []
    for row in members:
        name = method(row)
        if methods[row.get("method")] > 1:
            name = f"{name} {_telling(row, members)}".strip()
        times = sum(other == name or other.startswith(f"{name} (") for other in found)
        found.append(f"{name} ({times + 1})" if times else name)
    return found


def _telling(row: Row, members: list[Row]) -> str:
    mine = row.get("settings") or {}
    others = [other.get("settings") or {} for other in members if other.get("method") == row.get("method")]
    differing = [key for key in mine if any(other.get(key) != mine[key] for other in others)]
    return " ".join(f"{clean(key)}={clean(mine[key])}" for key in differing)
