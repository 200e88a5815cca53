"""How a comparison was measured and how it is done again, in words for the page."""

from collections.abc import Mapping
from typing import Any

from regard.bench.report.format import clean, count, tokens
from regard.bench.report.reading import Result, number


def facts(result: Result) -> list[tuple[str, str]]:
    """What the figures hang on, as terms and what is said of them; what is unknown is left out."""
    model, text, machine = (_part(result, key) for key in ("model", "text", "machine"))
    digest, threads = _prefixed("SHA-256", text.get("sha256")), _counted(machine.get("threads"), "threads")
    said = [
        ("Model", _joined(model.get("name"), _prefixed("revision", model.get("revision")))),
        ("Architecture", _architecture(model)),
        ("Precision", _joined(model.get("dtype"))),
        ("Text", _joined(text.get("name"), _counted(text.get("tokens"), "tokens"), digest)),
        ("Machine", _joined(machine.get("processor"), threads, machine.get("device"), machine.get("system"))),
        ("Versions", _pairs(_part(result, "versions"), " ")),
        ("Settings", _pairs(_part(result, "settings"), " = ")),
        ("Seed", _joined(result.get("seed"))),
        ("Started", _joined(result.get("started"))),
    ]
    return [(term, words) for term, words in said if words]


def repeat(result: Result) -> list[str]:
    """The lines to type for the same comparison."""
    version, name = _part(result, "versions").get("regard"), str(_part(result, "model").get("name") or "")
    pinned = f"=={clean(version)}" if version else ""
    lines = [f"pip install 'regard[all]{pinned}'"]
    # A path or a name on a hub is not pulled by regard.
    if name and not set(name) & set("/\\ "):
        lines.append(f"regard models pull {clean(name)}")
    return [*lines, clean(result.get("command") or "regard compare")]


def _architecture(model: Mapping[str, Any]) -> str:
    parameters, width = number(model.get("parameters")), number(model.get("width"))
    heads = _counted(model.get("heads"), "heads")
    groups = _counted(model.get("groups"), "key/value heads")
    return _joined(
        model.get("architecture"),
        f"{count(parameters)} parameters" if parameters is not None else None,
        _counted(model.get("layers"), "layers"),
        f"{heads} on {groups}" if heads and groups else heads,
        f"width {width:.0f} a head" if width is not None else None,
        _prefixed("trained for", _counted(model.get("trained_context"), "tokens")),
    )


def _part(result: Result, key: str) -> Mapping[str, Any]:
    return result.get(key) or {}


def _joined(*parts: object) -> str:
    return ", ".join(clean(part) for part in parts if part is not None and part != "")


def _prefixed(word: str, value: object) -> str | None:
    return None if value is None else f"{word} {value}"


def _counted(value: object, unit: str) -> str | None:
    found = number(value)
    return None if found is None else f"{tokens(found)} {unit if found != 1 else unit.removesuffix('s')}"


def _pairs(values: Mapping[str, Any], between: str) -> str:
    return ", ".join(f"{clean(key)}{between}{clean(value)}" for key, value in values.items())
